"""Whatever goes wrong on the fast path of a gateway costs it that path for a while, and no request."""

from __future__ import annotations

import logging

import pytest

from sagellm_control.gateway import fast_path as module
from sagellm_control.gateway.fast_path import GatewayFastPath
from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import AcceptedBatch, accept_batch

from ..pool_driver import PoolDriver, new_request
from ..waiting import wait_until
from .proposing_gateway import Gateway, own_tasks


async def test_closing_while_it_reads_leaves_no_task(pool: PoolDriver) -> None:
    await pool.engine()
    async with GatewayFastPath(pool.store) as fast_path:
        await Gateway(pool, fast_path).propose("a")
        assert own_tasks() == {f"fast path {pool.name}"}
    assert own_tasks() == set()


async def test_without_redis_it_proposes_nothing_and_nothing_is_raised(
    pool: PoolDriver, caplog: pytest.LogCaptureFixture
) -> None:
    away = Store(RedisSettings(url="redis://127.0.0.1:1/0", command_timeout_s=0.2, connect_timeout_s=0.2))
    try:
        async with GatewayFastPath(away) as fast_path:
            with caplog.at_level(logging.WARNING):
                assert await Gateway(pool, fast_path).propose("a") is None
                await wait_until(lambda: own_tasks() == set(), what="the read has failed")
            assert f"pool {pool.name}: no fast path" in caplog.text
            fast_path.learn(pool.name, None, None)
            assert await Gateway(pool, fast_path).propose("a") is None
    finally:
        await away.close()


async def test_a_bug_in_it_costs_the_fast_path_and_no_request(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await gateway.pool.engine()
    await gateway.look()

    def broken(*_: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(gateway.of_pool()._proposer, "propose", broken)
    assert await gateway.accept("a") == [False]
    assert await gateway.accept("b") == [False]
    assert caplog.text.count("Traceback") == 1, "told once until the next look"


async def test_so_does_a_bug_in_what_it_learns(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await gateway.pool.engine(slots=2)
    await gateway.look()

    def broken(*_: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(gateway.of_pool()._watch, "take_over", broken)
    assert await gateway.accept("a") == [True]
    assert caplog.text.count("Traceback") == 1
    assert await gateway.accept("b") == [False]


async def test_a_look_that_fails_is_not_repeated_with_each_request(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With room that the snapshot, of which there is none, does not see.
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 3600.0)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3600.0)
    await gateway.pool.engine(slots=100)
    looks: list[None] = []

    async def broken() -> None:
        looks.append(None)
        raise RuntimeError("out of order")

    assert await gateway.propose("a") is None
    monkeypatch.setattr(gateway.of_pool()._policy, "follow", broken)
    await wait_until(lambda: own_tasks() == set(), what="the first look is over")
    gateway.of_pool().give_up(RuntimeError("anew"))
    looks.clear()
    gateway.of_pool()._look_at = float("-inf")
    for n in range(20):
        assert await gateway.accept(f"r{n}") == [False]
        await gateway.pool.store.commands.delete(*gateway.pool.keys.intake)
    assert len(looks) == 1


async def test_what_a_lost_reply_hides_is_found_by_the_next_look(gateway: Gateway) -> None:
    # The second call finds the request where the first one, whose reply was lost, has put it.
    await gateway.pool.engine()
    await gateway.look()
    requests = [new_request("a", gateway.pool.name)]
    made = await gateway.fast_path.propose(gateway.pool.name, requests)
    batch: AcceptedBatch | None = None
    for _ in range(2):
        batch = await accept_batch(gateway.pool.store, gateway.pool.name, requests, gateway.pool.limits, made)
    gateway.fast_path.learn(gateway.pool.name, made, batch)
    await gateway.pool.engine("e2")
    await gateway.look(["e2"])
    assert await gateway.accept("b") == [True]
    assert await gateway.pool.holds() == {"a"}
