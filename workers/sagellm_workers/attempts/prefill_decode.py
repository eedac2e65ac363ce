"""Prefill on one engine, decode on another, as vLLM's KV connectors want it.

1. The prefilling engine gets the request with ``max_tokens`` 1, no stream, and ``kv_transfer_params`` that announce a
   decode elsewhere. It keeps the KV blocks and says in the reply's ``kv_transfer_params`` where they lie.
2. The decoding engine gets the request as it was, with those ``kv_transfer_params``, and fetches the blocks. It gets
   it under the id that the first one knew: some connectors find the blocks by that.

An engine that says nothing of ``kv_transfer_params`` has no connector: the decoding engine then reads the prompt
itself. So it does where a request cannot be separated, or its prompt was read by another kind of engine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from sagellm_control.wire.states import Stage

from ..adapters.base import EngineAdapter, EngineBroken, EngineCall, EngineReply
from ..adapters.loose_json import mapping, text
from ..observation.answer_watch import AnswerWatch

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
OWN_KIND = "sagellm"
"""Engines that are told the phase, and may find the blocks by the request's id."""
STALE_AFTER_MS = 100_000.0
"""KV blocks that nobody has fetched for so long are not asked for any more. Their engine frees them at some time (vLLM:
``VLLM_NIXL_ABORT_REQUEST_TIMEOUT``, never below two minutes by default), and they may then hold another prompt."""


async def read_prefill(reply: EngineReply, engine_kind: str, watch: AnswerWatch, sent_id: str) -> bytes:
    """What the prefilling engine hands over (see ``hand_over``). Raises EngineError."""
    pieces: list[bytes] = []
    async for piece in reply.chunks:
        watch.piece()
        pieces.append(piece)
    body = b"".join(pieces)
    handed = hand_over(engine_kind, body, sent_id)
    watch.length.body(body)
    watch.stream_ended()
    return handed


class Stale(Exception):
    """The KV blocks may be gone."""


class NotSeparable(Exception):
    """The engine that answers has to read the prompt itself."""


def staged_call(
    call: EngineCall,
    stage: Stage,
    engine_kind: str,
    adapter: EngineAdapter,
    *,
    handed: bytes = b"",
    age_ms: float = 0.0,
) -> EngineCall:
    """The call for a stage of a request.

    Args:
        handed: what the prefilling engine handed over (see ``hand_over``), and how long ago that was.

    Raises:
        Stale, NotSeparable
    """
    match stage:
        case Stage.WHOLE:
            return call
        case Stage.PREFILL:
            if not is_separable(call.body):
                raise NotSeparable
            return replace(call, stream=False, body=prefill_body(call.body, own_wire=adapter.name == "sagellm"))
        case Stage.DECODE:
            found = take_over(engine_kind, handed, age_ms)
            if found is None:
                return call
            transfer, sent_id = found
            body = decode_body(call.body, transfer, own_wire=adapter.name == "sagellm")
            return replace(call, body=body, sent_id=sent_id or call.request_id)


def is_separable(body: bytes) -> bool:
    """Whether one prompt is read once for one answer, and nothing is asked about the prompt that only the engine that
    reads it could tell."""
    try:
        fields = mapping(orjson.loads(body))
    except orjson.JSONDecodeError:
        return False
    prompt = fields.get("prompt")
    several = isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)
    answers = max(_count(fields.get("n")), _count(fields.get("best_of")))
    return not several and answers == 1 and not fields.get("echo") and fields.get("prompt_logprobs") is None


def _count(value: object) -> int:
    return value if isinstance(value, int) else 1


def hand_over(engine_kind: str, reply: bytes, sent_id: str) -> bytes:
    """What the worker of the decoding engine has to know, from the reply of the prefilling one (empty: there is none).

    Args:
        sent_id: under which the prefilling engine got the request.

    Raises:
        EngineBroken: the reply is no JSON.
    """
    if not reply:
        return b""
    try:
        transfer = mapping(mapping(orjson.loads(reply)).get(FIELD))
    except orjson.JSONDecodeError:
        raise EngineBroken(f"an engine of the kind {engine_kind} answered a prefill with what is no JSON") from None
    if not transfer and engine_kind != OWN_KIND:
        return b""
    return orjson.dumps({"engine_kind": engine_kind, "sent_id": sent_id, FIELD: transfer})


def take_over(engine_kind: str, handed: bytes, age_ms: float) -> tuple[dict[str, Any], str] | None:
    """Where the KV blocks lie, and under which id; None: nowhere that this engine could fetch them from.

    An earlier version, whose attempts all have the request's own id, names none.

    Raises:
        Stale: they were handed over too long ago.
    """
    if not handed:
        return None
    fields = mapping(orjson.loads(handed))
    if fields.get("engine_kind") != engine_kind:
        return None
    if age_ms > STALE_AFTER_MS:
        raise Stale
    return mapping(fields.get(FIELD)), text(fields.get("sent_id"))


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
