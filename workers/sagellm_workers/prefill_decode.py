"""Prefill on one engine, decode on another, as vLLM's KV connectors want it.

1. The prefilling engine gets the request with ``max_tokens`` 1, no stream, and ``kv_transfer_params`` that announce a
   decode elsewhere. It keeps the KV blocks and says in the reply's ``kv_transfer_params`` where they lie.
2. The decoding engine gets the request as it was, with those ``kv_transfer_params``, and fetches the blocks.

An engine that says nothing of ``kv_transfer_params`` has no connector: the decoding engine then reads the prompt
itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import orjson

from .adapters.base import EngineAdapter, EngineBroken, EngineCall
from .adapters.loose_json import mapping

REMOTE_DECODE: dict[str, Any] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""What announces a decode elsewhere (vLLM: ``examples/online_serving/disaggregated_serving``)."""

FIELD = "kv_transfer_params"
MOST_REPLY_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The answer of the prefilling engine."""

    status: int
    body: bytes
    """Its reply; where the status is an error, what the client is told."""
    retry_after_s: float | None = None

    @property
    def transfer(self) -> dict[str, Any]:
        """Where the KV blocks lie, for the decoding engine; empty: it does not say."""
        try:
            return mapping(mapping(orjson.loads(self.body)).get(FIELD))
        except orjson.JSONDecodeError:
            return {}


async def prefill(adapter: EngineAdapter, call: EngineCall) -> Prefilled:
    """Have an engine read the prompt of a request. Raises EngineError."""
    asked = replace(call, stream=False, body=prefill_body(call.body, own_wire=adapter.name == "sagellm"))
    async with adapter.run(asked) as reply:
        pieces: list[bytes] = []
        size = 0
        async for chunk in reply.chunks:
            pieces.append(chunk)
            size += len(chunk)
            if size > MOST_REPLY_BYTES:
                raise EngineBroken(
                    f"engine {adapter.url}: the reply to a prefill is longer than {MOST_REPLY_BYTES} bytes"
                )
        return Prefilled(reply.status, b"".join(pieces), reply.retry_after_s)


def prefill_body(body: bytes, *, own_wire: bool = False) -> bytes:
    """The request for the prefilling engine."""
    fields: dict[str, Any] = orjson.loads(body)
    fields["max_tokens"] = 1
    if "max_completion_tokens" in fields:
        fields["max_completion_tokens"] = 1
    fields.pop("min_tokens", None)
    fields.pop("stream_options", None)
    fields["stream"] = False
    fields[FIELD] = REMOTE_DECODE
    if own_wire:
        fields["phase"] = "prefill"
    return orjson.dumps(fields)


def decode_body(body: bytes, transfer: dict[str, Any], *, own_wire: bool = False) -> bytes:
    """The request for the decoding engine."""
    if not transfer and not own_wire:
        return body
    fields: dict[str, Any] = orjson.loads(body)
    if transfer:
        fields[FIELD] = transfer
    if own_wire:
        fields["phase"] = "decode"
    return orjson.dumps(fields)
