"""attach: one more inbox gets the output of a request."""

from __future__ import annotations

import pytest

from sagellm_control.store.steps.attach import attach
from sagellm_control.wire.states import RequestState

from ..pool_driver import PoolDriver


@pytest.mark.parametrize(
    ("before", "inbox", "after"),
    [
        ("one", "two", "one two"),
        ("one", "one", "one"),
        ("one two", "two", "one two"),
        ("one two", "on", "one two on"),
        ("", "two", "two"),
    ],
)
async def test_an_inbox_is_there_once(pool: PoolDriver, before: str, inbox: str, after: str) -> None:
    await pool.accept("a", inbox=before)
    assert await attach(pool.store, pool.name, "a", inbox) is RequestState.QUEUED
    assert (await pool.record("a"))["inbox"] == after


async def test_what_has_ended_says_so_and_stays_as_it_is(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("a")
    await pool.finish("a")
    before = await pool.record("a")
    assert await attach(pool.store, pool.name, "a", "late") is RequestState.FINISHED
    assert await pool.record("a") == before


async def test_what_is_not_there(pool: PoolDriver) -> None:
    assert await attach(pool.store, pool.name, "a", "inbox") is None
    assert await pool.record("a") == {}
