"""accept: requests enter the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...wire.request import WIRE_VERSION, NewRequest
from ...wire.states import RequestState
from ..connect import Store
from ..script import Argument, Script

_SCRIPT = Script("accept", adds_work=True)


@dataclass(slots=True, frozen=True)
class AcceptLimits:
    """What a pool takes."""

    max_waiting: int = 100_000
    """Most requests in intake streams and waiting set together."""
    without_engine: bool = False
    """Accept although no engine is READY."""
    hold_requests: int = 0
    """So many may wait in a pool that has no READY engine (see ``client.held``); 0: none."""
    hold_s: float = 30.0
    """For so long (s); an engine that comes within it serves them."""
    keep_result_ms: int = 600_000
    """For how long a finished request can be read."""


@dataclass(slots=True, frozen=True)
class Accepted:
    """The request is in the queue."""

    arrived_ms: float


@dataclass(slots=True, frozen=True)
class Exists:
    """A request of this id is there already."""

    state: RequestState
    same_body: bool
    same_tenant: bool


@dataclass(slots=True, frozen=True)
class Full:
    """The pool's queue is full."""

    waiting: int


@dataclass(slots=True, frozen=True)
class NoEngine:
    """No engine of the pool is READY."""


AcceptResult = Accepted | Exists | Full | NoEngine


async def accept(store: Store, pool: str, requests: Sequence[NewRequest], limits: AcceptLimits) -> list[AcceptResult]:
    """Put requests of one pool into their priority streams, each once per id."""
    keys = store.keys.pool(pool)
    names = [keys.waiting, keys.room, keys.counters, *keys.intake]
    arguments: list[Argument] = [
        store.now(),
        limits.max_waiting,
        int(limits.without_engine),
        limits.keep_result_ms,
        WIRE_VERSION,
        len(requests),
    ]
    for request in requests:
        names += (keys.record(request.id), keys.body(request.id))
        optional = _optional_fields(request)
        arguments += (
            request.id,
            int(request.priority),
            request.inbox,
            request.ticket,
            request.fingerprint,
            request.kind,
            request.body,
            len(optional) // 2,
            *optional,
        )
    answers = await _SCRIPT(store, names, arguments)
    return [_read(answer, request) for answer, request in zip(answers, requests, strict=True)]


def _optional_fields(request: NewRequest) -> list[Argument]:
    fields: list[Argument] = []
    for name in (
        "tenant",
        "model",
        "trace_id",
        "traceparent",
        "timeout_ms",
        "slo_ms",
        "prompt_tokens",
        "max_tokens",
        "attempt",
        "orphan_grace_ms",
    ):
        if value := getattr(request, name):
            fields += (name, value)
    if request.stream:
        fields += ("stream", 1)
        if request.continuable:
            fields += ("continue", 1)
    return fields


def _read(answer: list[bytes], request: NewRequest) -> AcceptResult:
    match answer[0]:
        case b"accepted":
            return Accepted(float(answer[1]))
        case b"full":
            return Full(int(answer[1]))
        case b"no_engine":
            return NoEngine()
        case _:
            if answer[4].decode() == request.ticket:
                # Our own accept, sent again because its reply was lost.
                return Accepted(0.0)
            return Exists(
                RequestState(answer[1].decode()),
                same_body=answer[2].decode() == request.fingerprint,
                same_tenant=answer[3].decode() == request.tenant,
            )
