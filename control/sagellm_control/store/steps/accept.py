"""accept: requests enter the queue, or go straight to an engine where nobody is ahead of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from ...wire.priority import RequestPriority
from ...wire.request import WIRE_VERSION, NewRequest
from ...wire.states import Reason, RequestState
from ...wire.trace_context import NO_TRACE
from ..connect import Store
from ..script import Argument, Script
from .rank import Charge, write_charge, write_credit, write_rank
from .room_note import RoomAfter, read_room_after
from .rules import INLINE_BODY_BYTES, PLAIN, Rules

_SCRIPT = Script("accept", adds_work=True)
_OWED = Script("accept")
"""For what belongs to a request that is in the queue: it has to come in also where there is no memory for new work."""


@dataclass(frozen=True)
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

    @cached_property
    def bounds(self) -> str:
        """As the script reads them."""
        by_class = zip(self.class_waiting, self.class_waiting_bytes, strict=True)
        bounds = (
            self.max_waiting,
            self.max_waiting_bytes,
            self.tenant_waiting,
            self.tenant_waiting_bytes,
            *(bound for pair in by_class for bound in pair),
        )
        return " ".join(map(str, bounds))

    def bound_of(self, reason: Reason, priority: RequestPriority) -> int:
        """The bound, in requests or bytes, that keeps a request of this class out for this reason.

        Raises:
            ValueError: it is about no bound on what waits.
        """
        match reason:
            case Reason.QUEUE_FULL:
                return self.max_waiting
            case Reason.QUEUE_BYTES_FULL:
                return self.max_waiting_bytes
            case Reason.TENANT_FULL:
                return self.tenant_waiting
            case Reason.TENANT_BYTES_FULL:
                return self.tenant_waiting_bytes
            case Reason.CLASS_FULL:
                return self.class_waiting[priority]
            case Reason.CLASS_BYTES_FULL:
                return self.class_waiting_bytes[priority]
            case _:
                raise ValueError(f"{reason} is about no bound on what waits")


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Accepted:
    """The request is in the queue."""

    arrived_ms: float
    assigned: bool = False
    """It is on the engine that was proposed for it."""


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
    missing_bytes: int = 0
    """So many more than the pool's bound would wait with this one."""


@dataclass(slots=True, frozen=True)
class NoEngine:
    """No engine of the pool is READY."""


AcceptResult = Accepted | Exists | Full | NoEngine


@dataclass(slots=True)
class Proposal:
    """What is proposed for one request, should nobody be ahead of it."""

    rank: float
    """Under a fair order, the handicap."""
    engine: str | None = None
    """Where it goes if that has room."""
    kv_tokens: int = 0
    """What it will hold in a KV cache."""
    uncached_tokens: int = 0
    """Prompt tokens that the engine has to compute."""
    charge: Charge | None = None
    """Under a fair order."""


@dataclass(slots=True)
class Proposals:
    """For the requests of one call, one each, by the policy behind the rules."""

    each: Sequence[Proposal]
    rules: Rules


@dataclass(slots=True)
class AcceptedBatch:
    """What became of the requests of one call."""

    results: list[AcceptResult]
    ahead: int
    """Requests that waited in the pool before it."""
    room: RoomAfter


_NONE = Proposal(0.0)


async def accept(
    store: Store, pool: str, requests: Sequence[NewRequest], limits: AcceptLimits, *, owed: bool = False
) -> list[AcceptResult]:
    """Put requests of one pool into their priority streams, each once per id.

    Args:
        owed: they belong to a request that has been accepted, so that also a full memory must not keep them out.
    """
    return (await accept_batch(store, pool, requests, limits, owed=owed)).results


async def accept_batch(
    store: Store,
    pool: str,
    requests: Sequence[NewRequest],
    limits: AcceptLimits,
    proposals: Proposals | None = None,
    *,
    owed: bool = False,
) -> AcceptedBatch:
    """The same; a request that nobody is ahead of goes to the engine that is proposed for it, if that has room.

    They are dealt with in the order of their ranks, so that the last room is the most urgent one's.
    """
    rules, each = (proposals.rules, proposals.each) if proposals else (PLAIN, [_NONE] * len(requests))
    order: Sequence[int] = range(len(requests))
    if len(requests) > 1:
        order = sorted(order, key=lambda i: each[i].rank)
    keys = store.keys.pool(pool)
    engines = list(dict.fromkeys(proposal.engine for proposal in each if proposal.engine))
    number = {engine: i for i, engine in enumerate(engines, 1)}
    names = [keys.waiting, keys.room, keys.counters, *keys.intake, keys.backlog]
    names += (keys.settings, keys.virtual_time, keys.tenants, keys.placements)
    for engine in engines:
        names += (keys.engine(engine), keys.reservations(engine), keys.assigned(engine))
    arguments: list[Argument] = [
        store.now(),
        int(limits.without_engine),
        limits.keep_result_ms,
        WIRE_VERSION,
        limits.bounds,
        rules.epoch,
        write_credit(rules.credit_ms, fair=rules.fair),
        rules.placement,
        int(rules.log_prefixes),
        INLINE_BODY_BYTES,
        len(engines),
        *engines,
        len(requests),
    ]
    for i in order:
        request, proposal = requests[i], each[i]
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
            number[proposal.engine] if proposal.engine else 0,
            write_rank(proposal.rank),
            proposal.kv_tokens,
            proposal.uncached_tokens,
            write_charge(proposal.charge) if proposal.charge else "",
            len(optional) // 2,
            *optional,
        )
    answers, ahead, *room = await (_OWED if owed else _SCRIPT)(store, names, arguments)
    results = {i: _read(answer, requests[i]) for i, answer in zip(order, answers, strict=True)}
    return AcceptedBatch([results[i] for i in range(len(requests))], ahead, read_room_after(engines, room))


_OPTIONAL = (
    "tenant",
    "model",
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
)
_optional_values = attrgetter(*_OPTIONAL)


def _optional_fields(request: NewRequest) -> list[Argument]:
    fields: list[Argument] = []
    for name, value in zip(_OPTIONAL, _optional_values(request), strict=True):
        if value:
            fields += (name, value)
    if request.trace is not NO_TRACE and (trace := request.trace.encode()):
        fields += ("trace", trace)
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


def _read(answer: list[bytes], request: NewRequest) -> AcceptResult:
    match answer[0]:
        case b"accepted" | b"assigned":
            return Accepted(float(answer[1]), answer[0] == b"assigned")
        case b"full":
            _, reason, waiting, over, *last = answer
            return Full(int(waiting), Reason(reason.decode()), tuple(name.decode() for name in last), int(over))
        case b"no_engine":
            return NoEngine()
        case _:
            if answer[4].decode() == request.ticket:
                # Our own accept, sent again because its reply was lost.
                return Accepted(0.0)
            return Exists(
                RequestState(answer[1].decode()),
                same_body=(answer[2].decode(), answer[5].decode()) == (request.fingerprint, request.kind),
                same_tenant=answer[3].decode() == request.tenant,
            )
