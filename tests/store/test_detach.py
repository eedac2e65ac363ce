"""attach and detach: who listens to a request, and what is noted when nobody does."""

from __future__ import annotations

import pytest

from sagellm_control.store.steps.attach import attach
from sagellm_control.store.steps.detach import Following, detach

from ..pool_driver import PoolDriver

GRACE_MS = 30_000


async def _orphans(pool: PoolDriver) -> dict[str, float]:
    entries = await pool.store.commands.zrange(pool.keys.orphans, 0, -1, withscores=True)
    return {name.decode(): score for name, score in entries}


@pytest.mark.parametrize(
    ("before", "leaves", "after", "following"),
    [
        ("one", "one", "", Following.ALONE),
        ("one two", "one", "two", Following.FOLLOWED),
        ("one two", "two", "one", Following.FOLLOWED),
        ("one", "on", "one", Following.FOLLOWED),
        ("", "one", "", Following.ALONE),
    ],
)
async def test_an_inbox_goes(pool: PoolDriver, before: str, leaves: str, after: str, following: Following) -> None:
    await pool.accept("a", inbox=before, orphan_grace_ms=GRACE_MS)
    assert await detach(pool.store, pool.name, "a", leaves) is following
    assert (await pool.record("a"))["inbox"] == after
    # Those that are left may be gone already: the keeper looks.
    assert await _orphans(pool) == {"a": pool.clock.now_ms + GRACE_MS}


async def test_without_a_grace_it_may_be_alone_for_ever(pool: PoolDriver) -> None:
    await pool.accept("a", inbox="one")
    assert await detach(pool.store, pool.name, "a", "one") is Following.ALONE
    assert await _orphans(pool) == {}


async def test_sent_again_it_does_not_wait_longer(pool: PoolDriver) -> None:
    await pool.accept("a", inbox="one", orphan_grace_ms=GRACE_MS)
    await detach(pool.store, pool.name, "a", "one")
    before = await _orphans(pool)
    pool.clock.advance(1000)
    assert await detach(pool.store, pool.name, "a", "one") is Following.ALONE
    assert await _orphans(pool) == before


async def test_who_comes_back_takes_it_off_the_list(pool: PoolDriver) -> None:
    await pool.accept("a", inbox="one", orphan_grace_ms=GRACE_MS)
    await detach(pool.store, pool.name, "a", "one")
    await attach(pool.store, pool.name, "a", "two")
    assert await _orphans(pool) == {}
    assert (await pool.record("a"))["inbox"] == "two"


@pytest.mark.parametrize("ended", [False, True])
async def test_what_is_not_there_or_over(pool: PoolDriver, ended: bool) -> None:
    if ended:
        await pool.engine()
        await pool.running("a", orphan_grace_ms=GRACE_MS)
        await pool.finish("a")
    assert await detach(pool.store, pool.name, "a", "inbox-of-a") is Following.UNKNOWN
    assert await _orphans(pool) == {}
