"""Requests whose gateway is gone: cancelled when their grace is over, unless somebody came back."""

from __future__ import annotations

import pytest

from sagellm_control.keeper.orphans import REMEMBERED_MS, OrphanKeeper
from sagellm_control.store.listeners import announce_listener, listener_leases
from sagellm_control.store.steps.assign import Placement
from sagellm_control.store.steps.attach import attach
from sagellm_control.store.steps.detach import detach
from sagellm_control.wire.states import Outcome

from ..pool_driver import PoolDriver

LEASE_MS = 10_000
GRACE_MS = 30_000


@pytest.fixture
def keeper(pool: PoolDriver) -> OrphanKeeper:
    return OrphanKeeper(pool.store, pool.name)


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
        assert (await pool.ending(request_id)).outcome is Outcome.CANCELLED
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
    pool.clock.advance(LEASE_MS + GRACE_MS - 30)
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
    other = OrphanKeeper(pool.store, pool.name)
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
    await pool.assign(Placement("a", 0, "e1"))
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
    assert await pool.store.commands.zcard(pool.keys.orphans) == 21
