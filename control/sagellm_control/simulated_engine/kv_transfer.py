"""Prefill and decode on two engines, as vLLM's NixlConnector exchanges KV blocks; here no block is ever moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from .generation import Generation
from .refusal import Refusal
from .request_body import RequestBody

FIELD = "kv_transfer_params"
WISHES = frozenset({"do_remote_decode", "do_remote_prefill"})
WHERE = frozenset(
    {"remote_engine_id", "remote_block_ids", "remote_host", "remote_port", "remote_request_id", "tp_size"}
)
BLOCK_TOKENS = 16


@dataclass(slots=True)
class TransferCounts:
    """Prompts: read here, of those kept for another engine, and fetched from another engine."""

    prompts_read: int = 0
    prefills_kept: int = 0
    prefills_fetched: int = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a request's ``kv_transfer_params`` come to."""

    kept: dict[str, object] | None = None
    """What the answer says of the blocks that are kept for another engine."""
    fetched: bool = False
    """The prompt needs no prefill."""


class KvTransfers:
    """What an engine has kept for others, and fetched from them."""

    def __init__(self) -> None:
        self.counts = TransferCounts()

    def read(self, body: RequestBody, generation: Generation, engine: tuple[str, str, int]) -> Exchange:
        """Deal with the request's ``kv_transfer_params``.

        Args:
            engine: its id, host and port.
        """
        params = body.table(FIELD)
        if params is None:
            self.counts.prompts_read += 1
            return Exchange()
        if unknown := sorted(params.fields.keys() - WISHES - WHERE):
            raise Refusal(400, f"{FIELD} has no field {unknown[0]!r}", param=FIELD)
        if params.flag("do_remote_prefill"):
            self._fetch(params, _blocks(generation))
            return Exchange(fetched=True)
        self.counts.prompts_read += 1
        if not params.flag("do_remote_decode"):
            return Exchange()
        self.counts.prefills_kept += 1
        return Exchange(
            kept={
                "do_remote_prefill": True,
                "do_remote_decode": False,
                "remote_engine_id": engine[0],
                "remote_block_ids": list(range(1, _blocks(generation) + 1)),
                "remote_host": engine[1],
                "remote_port": engine[2],
                "remote_request_id": generation.reply_id,
                "tp_size": 1,
            }
        )

    def _fetch(self, params: RequestBody, wanted: int) -> None:
        for name in ("remote_engine_id", "remote_host"):
            if not params.text(name):
                raise Refusal(500, f"{FIELD}.{name} is missing: there is nothing to fetch the prompt from")
        if params.integer("remote_port") is None:
            raise Refusal(500, f"{FIELD}.remote_port is missing: there is nothing to fetch the prompt from")
        blocks = params.fields.get("remote_block_ids")
        if not isinstance(blocks, list) or len(cast(list[object], blocks)) != wanted:
            raise Refusal(500, f"{FIELD}.remote_block_ids is not a list of {wanted} blocks: it is of another prompt")
        self.counts.prefills_fetched += 1


def _blocks(generation: Generation) -> int:
    return -(-generation.prompt_tokens // BLOCK_TOKENS)
