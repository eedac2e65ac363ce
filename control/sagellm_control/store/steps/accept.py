"""accept: requests enter the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...wire.request import WIRE_VERSION, NewRequest
from ...wire.states import Reason, RequestState
from ..connect import Store
from ..script import Argument, Script

_SCRIPT = Script("accept", adds_work=True)


@dataclass(slots=True, frozen=True)
class AcceptLimits:
    """What a pool takes. A bound on what waits holds for intake streams and waiting set together; 0: none."""

    max_waiting: int = 100_000
    """Most requests."""
    max_waiting_bytes: int = 0
    """Most bytes of their bodies."""
    tenant_waiting: int = 0
    """Most requests of one tenant (one that has a name)."""
    tenant_waiting_bytes: int = 0
    class_waiting: tuple[int, ...] = (0, 0, 0, 0, 0)
    """Most requests of each class, the most urgent first."""
    class_waiting_bytes: tuple[int, ...] = (0, 0, 0, 0, 0)
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
    """A bound on what may wait has been reached."""

    waiting: int
    """Requests that wait in the pool."""
    reason: Reason = Reason.QUEUE_FULL
    last: tuple[str, ...] = ()
    """Some of those that wait, the last in line first."""


@dataclass(slots=True, frozen=True)
class NoEngine:
    """No engine of the pool is READY."""


AcceptResult = Accepted | Exists | Full | NoEngine


async def accept(store: Store, pool: str, requests: Sequence[NewRequest], limits: AcceptLimits) -> list[AcceptResult]:
    """Put requests of one pool into their priority streams, each once per id."""
    keys = store.keys.pool(pool)
    names = [keys.waiting, keys.room, keys.counters, *keys.intake, keys.backlog]
    arguments: list[Argument] = [
        store.now(),
        int(limits.without_engine),
        limits.keep_result_ms,
        WIRE_VERSION,
        _bounds(limits),
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
        "tpot_slo_ms",
        "queue_ttl_ms",
        "session",
        "prompt_tokens",
        "max_tokens",
        "attempt",
        "orphan_grace_ms",
        "stage",
    ):
        if value := getattr(request, name):
            fields += (name, value)
    if request.stream:
        fields += ("stream", 1)
        if request.continuable:
            fields += ("continue", 1)
    if request.prefix:
        fields += ("prefix", " ".join(request.prefix))
    if request.reject_late:
        fields += ("reject_late", 1)
    if request.weight != 1.0:
        fields += ("weight", f"{request.weight:g}")
    return fields


def _bounds(limits: AcceptLimits) -> str:
    by_class = zip(limits.class_waiting, limits.class_waiting_bytes, strict=True)
    bounds = (
        limits.max_waiting,
        limits.max_waiting_bytes,
        limits.tenant_waiting,
        limits.tenant_waiting_bytes,
        *(bound for pair in by_class for bound in pair),
    )
    return " ".join(map(str, bounds))


def _read(answer: list[bytes], request: NewRequest) -> AcceptResult:
    match answer[0]:
        case b"accepted":
            return Accepted(float(answer[1]))
        case b"full":
            _, reason, waiting, *last = answer
            return Full(int(waiting), Reason(reason.decode()), tuple(name.decode() for name in last))
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
