"""register, renew, retire, drain, forget: the life of an engine's row and of its lease."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import RedisError, ResponseError

from ...wire.engine import EngineRow
from ...wire.keys import WORKER_GROUP, read_name
from ...wire.states import EngineState
from ..connect import Store
from ..script import Argument, Script
from .pools import announce, withdraw_removed
from .requeue import Cause, Requeue, requeue

_REGISTER = Script("register")
_RENEW = Script("renew")
_RETIRE = Script("retire")
_DRAIN = Script("drain")
_FORGET = Script("forget")

ROW_KEPT_MS = 24 * 3600 * 1000
"""A lost engine is shown for a day, so that an operator sees that there was one."""


@dataclass(slots=True, frozen=True)
class Held:
    """Another worker holds the engine."""

    worker: str


@dataclass(slots=True, frozen=True)
class Renewal:
    """The lease is ours for another while."""

    draining: bool
    """Somebody asked for the engine to be drained."""
    attempts: list[str]
    """For each attempt asked about: ``running``, ``lost``, or the outcome with which it is to be stopped."""


async def register_engine(store: Store, row: EngineRow, *, lease_ms: int) -> Held | None:
    """Take the engine's lease for ``row.worker`` and write its row; what keepers left is requeued."""
    keys = store.keys.pool(row.pool)
    names = [
        keys.engine(row.engine_id),
        keys.reservations(row.engine_id),
        keys.assigned(row.engine_id),
        keys.room,
        keys.waiting,
        keys.freed,
        keys.engines,
        keys.leases,
    ]
    fields: list[Argument] = []
    for name, value in row.fields().items():
        fields += (name, value)
    await announce(store, row)
    while True:
        arguments: list[Argument] = [store.now(), row.engine_id, row.worker, lease_ms, row.state, row.reason]
        answer = await _REGISTER(store, names, [*arguments, *fields])
        match answer[0]:
            case b"held":
                return Held(answer[1].decode())
            case b"recover":
                left_behind = [read_name(request_id) for request_id in answer[1:]]
                await give_back(store, row.pool, row.engine_id, left_behind, Cause.LAPSED)
            case _:
                return None


async def renew_engine(
    store: Store, row: EngineRow, attempts: Sequence[tuple[str, int]], *, lease_ms: int, facts: bool = False
) -> Renewal | None:
    """Prolong the lease (ms) of ``row.worker`` and write its state; None: the lease is lost.

    Args:
        facts: what the engine is has changed, so all of the row is written.
    """
    keys = store.keys.pool(row.pool)
    names = [
        keys.engine(row.engine_id),
        keys.reservations(row.engine_id),
        keys.room,
        keys.waiting,
        keys.freed,
        keys.leases,
        *(keys.record(request_id) for request_id, _ in attempts),
    ]
    arguments: list[Argument] = [store.now(), row.engine_id, row.worker, lease_ms, row.state, row.reason]
    arguments.append(len(attempts))
    for request_id, attempt in attempts:
        arguments += (request_id, attempt)
    for name, value in (row.fields() if facts else row.learned()).items():
        arguments += (name, value)
    answer = await _RENEW(store, names, arguments)
    if not answer:
        return None
    return Renewal(bool(answer[0]), [state.decode() for state in answer[1:]])


@dataclass(slots=True, frozen=True)
class Retired:
    """An engine that nobody holds any more."""

    had_holder: bool
    """False: it had been retired before, and this call only went on with its requests."""
    given_back: int
    """Requests that were requeued."""


async def retire_engine(
    store: Store, pool: str, engine: str, worker: str, state: EngineState, reason: str
) -> Retired | None:
    """Take the engine from its holder and requeue what it held; None: it is held, nothing was done.

    Args:
        worker: the holder itself; empty: whoever it is, if the lease has lapsed.
    """
    keys = store.keys.pool(pool)
    names = [
        keys.engine(engine),
        keys.reservations(engine),
        keys.room,
        keys.leases,
        keys.assigned(engine),
        keys.waiting,
        keys.freed,
    ]
    arguments: list[Argument] = [state, reason, ROW_KEPT_MS]
    answer = await _RETIRE(store, names, [store.now(), engine, worker, *arguments])
    if answer is None:
        return None
    left_behind = [read_name(request_id) for request_id in answer[1:]]
    given_back = 0
    if left_behind:
        # A worker that says goodbye had not begun these; one that vanished may have died of them.
        given_back = await give_back(store, pool, engine, left_behind, Cause.RETURNED if worker else Cause.LAPSED)
        await _RETIRE(store, names, [store.now(), engine, "", *arguments])
    return Retired(answer[0] == b"1", given_back)


async def give_back(store: Store, pool: str, engine: str, request_ids: Sequence[str], cause: Cause) -> int:
    """Requeue what an engine's last holder had; how many, but for those that somebody else had requeued before."""
    batch = 200  # requests a script call; keeps each call well under a millisecond or two
    given_back = 0
    for start in range(0, len(request_ids), batch):
        lost = [Requeue(request_id, None, cause) for request_id in request_ids[start : start + batch]]
        given_back += sum(state != "lost" for state in await requeue(store, pool, engine, "", lost))
    return given_back


def is_groupless(error: Exception) -> bool:
    """Whether a read failed as the stream has no group."""
    return isinstance(error, ResponseError) and str(error).startswith("NOGROUP")


async def restore_group(store: Store, assigned: str) -> None:
    """Give an engine's assigned stream its group again: somebody has deleted the stream, or a step did that, as it was
    of another type, and an assignment has made it anew. One that there is not is not made: it could be nobody's.
    Where Redis is away nothing is done."""
    with suppress(RedisError, OSError):
        await store.commands.xgroup_create(assigned, WORKER_GROUP, id="0")


async def drain_engine(store: Store, pool: str, engine: str, *, drain: bool = True) -> int | None:
    """Stop (or with ``drain=False`` resume) giving it requests; how many it holds, None: no such engine."""
    keys = store.keys.pool(pool)
    names = [keys.engine(engine), keys.reservations(engine), keys.room, keys.waiting, keys.freed]
    answer = await _DRAIN(store, names, [engine, int(drain), store.now()])
    return None if answer is None else int(answer)


def drained_note(engine: str) -> str:
    """Why an engine is given nothing that somebody has drained, and what undoes that: it outlives the engine's workers,
    and who did it may be gone."""
    return f"drained: `sagellm-control engines drain {engine} --undo` gives it requests again"


async def remove_engine(store: Store, pool: str, engine: str) -> str:
    """Delete what is kept of an engine, and the models that only it served are unknown: ``forgotten``; ``held`` by a
    worker, or ``busy``: nothing was done."""
    keys = store.keys.pool(pool)
    names = [
        keys.engine(engine),
        keys.reservations(engine),
        keys.assigned(engine),
        keys.room,
        keys.engines,
        keys.leases,
    ]
    done = (await _FORGET(store, names, [engine])).decode()
    if done == "forgotten":
        await withdraw_removed(store, pool)
    return done
