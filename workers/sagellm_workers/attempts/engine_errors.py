"""What an engine's failure, or its answer with an error status, means for the request."""

from __future__ import annotations

from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome

from ..adapters.base import EngineBroken, EngineError, EngineFailed, EngineReply, EngineTimeout, PartnerFailed
from ..adapters.told_error import refuses

CODES = {EngineTimeout: "engine_timeout", EngineBroken: "engine_broken", PartnerFailed: "prefill_failed"}
UNREACHABLE = frozenset({"engine_unreachable", "engine_broken"})
"""Results of attempts after which the engine may be gone."""

MOST_ERROR_BYTES = 1 << 20
"""Of an engine's error body; more is of no use to anybody."""

PAUSE_STATUSES = frozenset({429, 503})
"""With a Retry-After they mean "later": the request waits, and has not failed."""


def failed_call(error: EngineError, engine_id: str) -> Ending:
    """How a request ends that this has happened to, if it is given to no other engine, as its client is told."""
    code = next((name for kind, name in CODES.items() if isinstance(error, kind)), "engine_unreachable")
    status = 504 if isinstance(error, EngineTimeout) else 502
    said = error.said if isinstance(error, EngineFailed) else b""
    message = f"engine {engine_id} {error.told}" if error.told else str(error)
    return Ending(Outcome.FAILED, status, code=code, message=message, engine=engine_id, body=said)


def asks_for_a_pause(answer: EngineReply | Ending) -> bool:
    """Whether the engine wants to be left alone for ``retry_after_s``, whatever the request."""
    return answer.status in PAUSE_STATUSES and answer.retry_after_s is not None


async def read_error_reply(reply: EngineReply, engine_id: str) -> Ending:
    """An answer with an error status: REFUSED where any engine would say so, FAILED where another may do better.

    Raises:
        EngineError: it broke off.
    """
    body = bytearray()
    async for chunk in reply.chunks:
        body += chunk
        if len(body) > MOST_ERROR_BYTES:
            break
    refused = refuses(reply.status)
    return Ending(
        Outcome.REFUSED if refused else Outcome.FAILED,
        reply.status,
        content_type=reply.content_type or "application/json",
        code="" if refused else "engine_error",
        message="" if refused else f"engine {engine_id} answered {reply.status}",
        engine=engine_id,
        retry_after_s=reply.retry_after_s,
        body=bytes(body[:MOST_ERROR_BYTES]),
    )
