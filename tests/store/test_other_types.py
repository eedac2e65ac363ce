"""A key of one request that somebody has made into another type stops no other request, at any step."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from sagellm_control.store.steps.append import Output, append
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import CancelResult, cancel
from sagellm_control.store.steps.claim import claim
from sagellm_control.store.steps.expire import expire_waiting
from sagellm_control.store.steps.finish import Finish, finish
from sagellm_control.store.steps.requeue import Cause, Requeue, requeue
from sagellm_control.store.views import list_requests

from ..pool_driver import BROKEN, DONE, PoolDriver

BOTH = ("bad", "good")
Step = Callable[[PoolDriver], Awaitable[object]]


async def _finish(pool: PoolDriver) -> object:
    ends = [Finish(request_id, 1, 1, DONE) for request_id in BOTH]
    return (await finish(pool.store, pool.name, "e1", pool.worker("e1"), ends))[1]


async def _append(pool: PoolDriver) -> object:
    outputs = [Output(request_id, 1, 1, b"data: x\n\n") for request_id in BOTH]
    return (await append(pool.store, pool.name, "e1", pool.worker("e1"), outputs))[1]


async def _claim(pool: PoolDriver) -> object:
    claims = [(request_id, 1, 0.0) for request_id in BOTH]
    return (await claim(pool.store, pool.name, "e1", pool.worker("e1"), claims))[1]


async def _requeue(pool: PoolDriver) -> object:
    items = [Requeue(request_id, 1, Cause.FAILED, BROKEN) for request_id in BOTH]
    return (await requeue(pool.store, pool.name, "e1", pool.worker("e1"), items, max_failures=3))[1]


ON_AN_ENGINE: dict[str, tuple[Step, object]] = {
    "claim": (_claim, "running"),
    "append": (_append, True),
    "finish": (_finish, True),
    "requeue": (_requeue, "waiting"),
}


@pytest.fixture(autouse=True)
async def nothing_is_left_of_it(pool: PoolDriver) -> AsyncGenerator[None, None]:
    yield
    await pool.store.commands.delete(*(getattr(pool.keys, kind)("bad") for kind in ("record", "body", "output")))


async def spoil(pool: PoolDriver, kind: str) -> None:
    """Make a key of the request `bad` into a set."""
    key = getattr(pool.keys, kind)("bad")
    await pool.store.commands.delete(key)
    await pool.store.commands.sadd(key, "somebody was here")
    await pool.store.commands.expire(key, 60)


@pytest.mark.parametrize("kind", ["record", "body", "output"])
@pytest.mark.parametrize("step", ON_AN_ENGINE)
async def test_on_an_engine(pool: PoolDriver, step: str, kind: str) -> None:
    await pool.engine(slots=2)
    await pool.assigned(*BOTH) if step == "claim" else await pool.running(*BOTH)
    await spoil(pool, kind)
    run, expected = ON_AN_ENGINE[step]
    assert await run(pool) == expected


@pytest.mark.parametrize("kind", ["record", "body", "output"])
async def test_in_the_line(pool: PoolDriver, kind: str) -> None:
    await pool.engine(slots=2)
    await pool.waiting(*BOTH)
    await spoil(pool, kind)
    assigned = await pool.assign(Move("bad", 0, "e1"), Move("good", 0, "e1"))
    assert assigned.results == ["gone" if kind == "record" else "assigned", "assigned"]


@pytest.mark.parametrize("kind", ["record", "body", "output"])
async def test_what_waited_for_too_long(pool: PoolDriver, kind: str) -> None:
    await pool.accept(*BOTH, queue_ttl_ms=10)
    for admission in [pool.admission(entry) for entry in (await pool.take()).arrivals]:
        admission.wait_ms = 10
        await pool.admit(admission)
    await spoil(pool, kind)
    pool.clock.advance(20)
    await expire_waiting(pool.store, pool.name)
    assert await pool.state("good") == "finished"


@pytest.mark.parametrize("kind", ["record", "body", "output"])
async def test_it_can_be_cancelled_and_the_others_are_listed(pool: PoolDriver, kind: str) -> None:
    await pool.accept(*BOTH)
    await spoil(pool, kind)
    listed = [view.request_id for view in await list_requests(pool.store, pool.name)]
    assert listed == (["good"] if kind == "record" else ["bad", "good"])
    expected = CancelResult.UNKNOWN if kind == "record" else CancelResult.ENDED
    assert await cancel(pool.store, pool.name, "bad") is expected
    assert await pool.state("good") == "queued"
