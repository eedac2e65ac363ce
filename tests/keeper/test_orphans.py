"""Requests whose gateway is gone: cancelled when their grace is over, unless somebody came back."""

from __future__ import annotations

import pytest

from sagellm_control.keeper import orphans
from sagellm_control.keeper.orphans import REMEMBERED_MS, OrphanKeeper
from sagellm_control.store.connect import Store
from sagellm_control.store.listeners import due_orphans, listener_leases
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.attach import attach
from sagellm_control.store.steps.detach import detach
from sagellm_control.store.steps.listen import announce_listener, note_orphan
from sagellm_control.wire.states import Outcome

from ..pool_driver import PoolDriver

LEASE_MS = 10_000
GRACE_MS = 30_000


PATIENCE_MS = 9_001
"""Just longer than a living gateway may need to say so: every 2 s, a command 5 s, a connection 2 s."""


async def _keeper(pool: PoolDriver) -> OrphanKeeper:
    """One that has looked for so long that it may cancel."""
    keeper = OrphanKeeper(pool.store, pool.name, monotonic=lambda: pool.clock.now_ms / 1000)
    assert await keeper.look() == 0
    pool.clock.advance(PATIENCE_MS)
    assert await keeper.look() == 0
    return keeper


@pytest.fixture
async def keeper(pool: PoolDriver) -> OrphanKeeper:
    return await _keeper(pool)


async def _announce(pool: PoolDriver, *inboxes: str) -> None:
    for inbox in inboxes:
        await announce_listener(pool.store, inbox, LEASE_MS)


async def _everywhere(pool: PoolDriver, **fields: object) -> list[str]:
    """A request in each place: intake, waiting set, assigned, running."""
    await pool.engine(slots=2)
    await pool.running("running", **fields)
    await pool.assigned("assigned", **fields)
    await pool.waiting("waiting", **fields)
    await pool.accept("queued", **fields)
    return ["running", "assigned", "waiting", "queued"]


async def test_they_end_when_the_grace_is_over_and_not_before(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await _announce(pool, "gone")
    requests = await _everywhere(pool, inbox="gone", orphan_grace_ms=GRACE_MS)
    assert await keeper.look() == 0
    pool.clock.advance(LEASE_MS)
    assert await keeper.look() == 0
    pool.clock.advance(GRACE_MS - 100)
    assert await keeper.look() == 0
    pool.clock.advance(100)
    assert await keeper.look() == len(requests)
    for request_id in ("waiting", "queued"):
        ending = await pool.ending(request_id)
        assert (ending.outcome, ending.code) == (Outcome.CANCELLED, "cancelled")
        assert ending.message.endswith("is gone, and nobody came back for it.")
    for request_id in ("running", "assigned"):
        assert (await pool.record(request_id))["cancel"] == "cancelled", "its worker has been told"
    assert await keeper.look() == 0
    assert not await pool.store.commands.exists(pool.keys.orphans)


async def test_without_a_grace_they_go_on(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await _announce(pool, "gone")
    await pool.accept("a", inbox="gone")
    pool.clock.advance(LEASE_MS + 100 * GRACE_MS)
    assert await keeper.look() == 0
    assert await pool.state("a") == "queued"


async def test_a_living_gateway_keeps_its_requests(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await pool.accept("a", inbox="alive", orphan_grace_ms=GRACE_MS)
    for _ in range(20):
        await _announce(pool, "alive")
        pool.clock.advance(LEASE_MS / 2)
        assert await keeper.look() == 0
    assert await pool.state("a") == "queued"


async def test_one_that_was_only_slow_keeps_them_too(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await _announce(pool, "slow")
    await pool.accept("a", inbox="slow", orphan_grace_ms=GRACE_MS)
    pool.clock.advance(LEASE_MS + GRACE_MS - 10)
    assert await keeper.look() == 0
    await _announce(pool, "slow")
    pool.clock.advance(20)
    assert await keeper.look() == 0
    # Lost for good later, it is given the whole grace.
    pool.clock.advance(LEASE_MS)
    assert await keeper.look() == 0
    pool.clock.advance(GRACE_MS - 30)
    assert await keeper.look() == 0
    pool.clock.advance(10)
    assert await keeper.look() == 1


async def test_somebody_came_back(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await _announce(pool, "gone")
    await pool.accept("a", inbox="gone", orphan_grace_ms=GRACE_MS)
    pool.clock.advance(LEASE_MS)
    await keeper.look()
    await _announce(pool, "new")
    await attach(pool.store, pool.name, "a", "new")
    for _ in range(10):
        pool.clock.advance(GRACE_MS / 4)
        await _announce(pool, "new")
        assert await keeper.look() == 0
    # And goes again.
    await detach(pool.store, pool.name, "a", "new")
    pool.clock.advance(GRACE_MS)
    assert await keeper.look() == 1


async def test_a_client_that_left_and_did_not_come_back(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await _announce(pool, "alive")
    await pool.accept("a", inbox="alive", orphan_grace_ms=GRACE_MS)
    await detach(pool.store, pool.name, "a", "alive")
    pool.clock.advance(GRACE_MS - 1)
    assert await keeper.look() == 0
    pool.clock.advance(1)
    assert await keeper.look() == 1


async def test_one_that_has_not_announced_itself_yet_is_waited_for(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await _announce(pool, "another")
    pool.clock.advance(LEASE_MS)
    await pool.accept("a", inbox="new", orphan_grace_ms=GRACE_MS)
    assert await keeper.look() == 0
    await _announce(pool, "new")
    for _ in range(6):
        pool.clock.advance(LEASE_MS - 1)
        await _announce(pool, "new")
        assert await keeper.look() == 0
    assert await pool.state("a") == "queued"


async def test_two_keepers_end_each_once(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    other = await _keeper(pool)
    await _announce(pool, "gone")
    await pool.accept("a", "b", inbox="gone", orphan_grace_ms=GRACE_MS)
    pool.clock.advance(LEASE_MS)
    for each in (keeper, other):
        await each.look()
    pool.clock.advance(GRACE_MS)
    assert [await keeper.look(), await other.look()] == [2, 0]


async def test_one_that_moves_while_it_is_noted_is_found(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await pool.engine()
    await _announce(pool, "gone")
    await pool.waiting("a", inbox="gone", orphan_grace_ms=GRACE_MS)
    pool.clock.advance(LEASE_MS)
    await keeper.look()
    await pool.assign(Move("a", 0, "e1"))
    pool.clock.advance(GRACE_MS)
    assert await keeper.look() == 1
    assert (await pool.record("a"))["cancel"] == "cancelled"


async def test_a_lost_gateway_is_forgotten_in_the_end(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await _announce(pool, "gone")
    pool.clock.advance(LEASE_MS + REMEMBERED_MS)
    await _announce(pool, "alive")
    await keeper.look()
    assert set(await listener_leases(pool.store)) == {"gone", "alive"}
    pool.clock.advance(1)
    await keeper.look()
    assert set(await listener_leases(pool.store)) == {"alive"}


async def test_more_than_fit_one_read(pool: PoolDriver, keeper: OrphanKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagellm_control.store.listeners.AT_ONCE", 3)
    await _announce(pool, "gone")
    await pool.engine(slots=8)
    await pool.running(*(f"r{i}" for i in range(7)), inbox="gone", orphan_grace_ms=GRACE_MS)
    await pool.waiting(*(f"w{i}" for i in range(7)), inbox="gone", orphan_grace_ms=GRACE_MS)
    await pool.accept(*(f"q{i}" for i in range(7)), inbox="gone", orphan_grace_ms=GRACE_MS)
    pool.clock.advance(LEASE_MS)
    await keeper.look()
    pool.clock.advance(PATIENCE_MS)
    await keeper.look()
    assert await pool.store.commands.zcard(pool.keys.orphans) == 21


AWAY = ("listener_leases", "forget_listeners")
"""What fails while Redis is away, and what while it takes no writes and can be read."""


async def _outage(pool: PoolDriver, keeper: OrphanKeeper, fails: str) -> None:
    """Redis is away for longer than a lease and a grace, and back."""

    async def away(*_: object) -> None:
        raise ConnectionError("Redis is away")

    pool.clock.advance(LEASE_MS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orphans, fails, away)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await keeper.look()
            pool.clock.advance(GRACE_MS)


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("fails", AWAY)
async def test_after_an_outage_a_living_gateway_has_time_to_say_so(
    pool: PoolDriver, keeper: OrphanKeeper, fails: str, noted: bool
) -> None:
    await _announce(pool, "alive")
    await pool.accept("a", inbox="alive", orphan_grace_ms=GRACE_MS)
    if noted:
        await note_orphan(pool.store, pool.name, "a", pool.clock.now_ms)
    assert await keeper.look() == 0
    await _outage(pool, keeper, fails)
    late = OrphanKeeper(pool.store, pool.name, monotonic=lambda: pool.clock.now_ms / 1000)
    for _ in range(9):
        assert [await keeper.look(), await late.look()] == [0, 0]
        pool.clock.advance(1000)
    await _announce(pool, "alive")
    for _ in range(9):
        assert [await keeper.look(), await late.look()] == [0, 0]
        pool.clock.advance(1000)
    assert await pool.state("a") == "queued"


@pytest.mark.parametrize("fails", AWAY)
async def test_a_gateway_that_was_lost_in_an_outage_has_none_for_ever(
    pool: PoolDriver, keeper: OrphanKeeper, fails: str
) -> None:
    await _announce(pool, "gone")
    await pool.accept("a", inbox="gone", orphan_grace_ms=GRACE_MS)
    await _outage(pool, keeper, fails)
    assert await keeper.look() == 0
    pool.clock.advance(PATIENCE_MS)
    assert await keeper.look() == 1


async def test_after_an_outage_a_client_has_time_to_come_back(pool: PoolDriver, keeper: OrphanKeeper) -> None:
    await _announce(pool, "alive")
    await pool.accept("a", inbox="alive", orphan_grace_ms=GRACE_MS)
    await detach(pool.store, pool.name, "a", "alive")
    await _outage(pool, keeper, "listener_leases")
    assert await keeper.look() == 0
    pool.clock.advance(PATIENCE_MS)
    assert await keeper.look() == 1


async def test_one_that_announces_itself_while_the_keeper_looks(
    pool: PoolDriver, keeper: OrphanKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def meanwhile(store: Store, name: str, now_ms: float) -> list[str]:
        due = await due_orphans(store, name, now_ms)
        if due:
            await _announce(pool, "slow")
        return due

    monkeypatch.setattr(orphans, "due_orphans", meanwhile)
    await _announce(pool, "slow")
    await pool.accept("a", inbox="slow", orphan_grace_ms=GRACE_MS)
    pool.clock.advance(LEASE_MS)
    await keeper.look()
    pool.clock.advance(GRACE_MS)
    assert await keeper.look() == 0
    assert await pool.state("a") == "queued"
