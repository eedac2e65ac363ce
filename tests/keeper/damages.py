"""What somebody with ``redis-cli`` can break, and what the keeper that repairs it counts.

The pool is that of ``test_reconcile``: ``run-1``, ``assigned-1``, ``wait-1`` and ``queued-1`` are in the states that
their names say, ``done`` has finished, and ``e1`` is the only engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sagellm_control.keeper.reconcile import UNHEARD_MS

from ..pool_driver import PoolDriver

Damage = Callable[[PoolDriver], Awaitable[None]]


async def member_without_request(pool: PoolDriver) -> None:
    await pool.store.commands.hset(pool.keys.reservations("e1"), "nobody", 0)


async def member_of_a_finished_request(pool: PoolDriver) -> None:
    await pool.store.commands.hset(pool.keys.reservations("e1"), "done", 0)


async def member_of_a_waiting_request(pool: PoolDriver) -> None:
    await pool.store.commands.hset(pool.keys.reservations("e1"), "wait-1", 0)


async def waits_without_a_record(pool: PoolDriver) -> None:
    await pool.store.commands.zadd(pool.keys.waiting, {"nobody": 1})


async def waits_though_it_runs(pool: PoolDriver) -> None:
    await pool.store.commands.zadd(pool.keys.waiting, {"run-1": 1})


async def waits_nowhere(pool: PoolDriver) -> None:
    await pool.store.commands.zrem(pool.keys.waiting, "wait-1")


async def queued_nowhere(pool: PoolDriver) -> None:
    await pool.store.commands.xdel(pool.keys.intake[2], (await pool.record("queued-1"))["entry"])


async def assigned_to_nobody(pool: PoolDriver) -> None:
    await pool.store.commands.xdel(pool.keys.assigned("e1"), (await pool.record("assigned-1"))["entry"])
    pool.clock.advance(UNHEARD_MS)


async def runs_without_a_place(pool: PoolDriver) -> None:
    await pool.store.commands.hdel(pool.keys.reservations("e1"), "run-1")


async def note_too_high(pool: PoolDriver) -> None:
    await pool.store.commands.zadd(pool.keys.room, {"e1": 99})


async def note_is_gone(pool: PoolDriver) -> None:
    await pool.store.commands.zrem(pool.keys.room, "e1")


async def note_of_no_engine(pool: PoolDriver) -> None:
    await pool.store.commands.zadd(pool.keys.room, {"ghost": 5})


async def lease_is_gone(pool: PoolDriver) -> None:
    await pool.store.commands.zrem(pool.keys.leases, "e1")


async def not_in_the_set_of_engines(pool: PoolDriver) -> None:
    await pool.store.commands.srem(pool.keys.engines, "e1")


DAMAGES: list[tuple[Damage, dict[str, float]]] = [
    (member_without_request, {"stray_reservation": 1}),
    (member_of_a_finished_request, {"stray_reservation": 1}),
    (member_of_a_waiting_request, {"stray_reservation": 1}),
    (waits_without_a_record, {"stray_in_waiting": 1}),
    (waits_though_it_runs, {"stray_in_waiting": 1}),
    (waits_nowhere, {"lost_from_waiting": 1}),
    (queued_nowhere, {"lost_from_intake": 1}),
    (assigned_to_nobody, {"lost_from_assigned": 1}),
    (runs_without_a_place, {"lost_reservation": 1}),
    (note_too_high, {"wrong_room": 1}),
    (note_is_gone, {"wrong_room": 1}),
    (note_of_no_engine, {"wrong_room": 1}),
    (lease_is_gone, {"no_lease": 1}),
    (not_in_the_set_of_engines, {"unlisted_engine": 1}),
]
