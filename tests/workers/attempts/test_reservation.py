"""Whether the program that holds a reservation has gone."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.say_alive import ALIVE_S, say_alive
from sagellm_workers.attempts import reservation
from sagellm_workers.attempts.reservation import Holder

from ...clock import Clock

PATIENCE_MS = 9_001
"""Just longer than a living program may need to say so: every 2 s, a command 5 s, a connection 2 s."""


@pytest.fixture
def holder(store: Store, clock: Clock) -> Holder:
    return Holder(store, "program", monotonic=lambda: clock.now_ms / 1000)


async def _says_nothing(store: Store) -> None:
    """Its last word lapses."""
    await store.commands.delete(store.keys.holder("program"))


async def test_one_that_lives_never_is(store: Store, clock: Clock, holder: Holder) -> None:
    await say_alive(store, "program")
    assert 0 < await store.commands.ttl(store.keys.holder("program")) <= ALIVE_S
    for _ in range(3):
        assert not await holder.has_gone()
        clock.advance(PATIENCE_MS)


async def test_one_that_was_not_heard_of_for_longer_than_a_living_one_needs_is(
    store: Store, clock: Clock, holder: Holder
) -> None:
    assert not await holder.has_gone()
    clock.advance(PATIENCE_MS - 2)
    assert not await holder.has_gone()
    clock.advance(2)
    assert await holder.has_gone()


async def test_one_that_is_back_has_all_that_time_again(store: Store, clock: Clock, holder: Holder) -> None:
    """A failover lost what it had said, say."""
    for _ in range(3):
        assert not await holder.has_gone()
        clock.advance(PATIENCE_MS)
        await say_alive(store, "program")
        assert not await holder.has_gone()
        await _says_nothing(store)


async def test_an_outage_ends_nobody(
    store: Store, clock: Clock, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could say so. When Redis is back they have the time to."""

    async def away(*_: object) -> bool:
        raise ConnectionError("Redis is away")

    await say_alive(store, "program")
    assert not await holder.has_gone()
    await _says_nothing(store)
    assert not await holder.has_gone()
    with monkeypatch.context() as patch:
        patch.setattr(reservation, "is_alive", away)
        for _ in range(5):
            clock.advance(PATIENCE_MS)
            assert not await holder.has_gone()
    clock.advance(PATIENCE_MS)
    assert not await holder.has_gone(), "the first look that says anything"
    clock.advance(PATIENCE_MS)
    assert await holder.has_gone()


async def test_a_look_whose_answer_was_long_on_its_way_is_of_then(
    store: Store, clock: Clock, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was stopped: the program was not silent for as long as that took."""

    async def late(*_: object) -> bool:
        clock.advance(PATIENCE_MS)
        return False

    monkeypatch.setattr(reservation, "is_alive", late)
    assert not await holder.has_gone()
    assert not await holder.has_gone()
