"""The fast path of a gateway on a real server: when it proposes an engine, when it does not, and what it learns."""

from __future__ import annotations

import pytest

from sagellm_control.gateway import fast_path as module
from sagellm_control.gateway.fast_path import GatewayFastPath
from sagellm_control.scheduler import proposal
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import RequestKind

from ..pool_driver import new_request
from ..pool_state import read_state, violations
from ..samples import sample
from ..waiting import wait_until
from .proposing_gateway import Gateway

PREFIX = tuple(f"block-{n}" for n in range(8))


async def test_nothing_is_proposed_before_the_first_look_and_then_an_engine_is(gateway: Gateway) -> None:
    await gateway.pool.engine()
    assert await gateway.accept("a") == [False]
    await gateway.pool.admit(*map(gateway.pool.admission, (await gateway.pool.take()).arrivals))
    await gateway.pool.engine("e2", slots=2)
    # "a" waits, which the first look does not say; so it proposes, and accept does not.
    await gateway.look(["e2"])
    assert await gateway.accept("b") == [False]


async def test_what_it_proposes_runs_at_once_and_is_counted(gateway: Gateway) -> None:
    await gateway.pool.engine(slots=2)
    await gateway.look()
    assert await gateway.accept("a", "b", "c") == [True, True, False]
    assert await gateway.pool.holds() == {"a", "b"}
    assert violations(await read_state(gateway.pool.store, gateway.pool.keys)) == []
    counted = {
        result: sample("sagellm_control_gateway_fast_path_total", pool=gateway.pool.name, result=result)
        for result in ("assigned", "queued")
    }
    assert counted == {"assigned": 2, "queued": 1}


async def test_a_kind_that_no_engine_known_takes_is_left_to_a_scheduler(gateway: Gateway) -> None:
    # One that takes it may just have been registered.
    await gateway.pool.engine("text", slots=4, kinds=("chat",))
    await gateway.look(["text"])
    await gateway.pool.engine("vectors", slots=4, kinds=("embedding",))
    assert await gateway.propose("a", kind=RequestKind.EMBEDDING) is None

    async def proposed() -> bool:
        return await gateway.engines("look", kind=RequestKind.EMBEDDING) == ["vectors"]

    await wait_until(proposed, what="it is looked for")


async def test_the_most_urgent_of_one_call_has_the_place(gateway: Gateway) -> None:
    await gateway.pool.engine()
    await gateway.look()
    requests = [
        new_request(name, gateway.pool.name, priority=priority)
        for name, priority in (("a", RequestPriority.LOW), ("b", RequestPriority.CRITICAL))
    ]
    made = await gateway.fast_path.propose(gateway.pool.name, requests)
    assert made is not None
    assert [proposal.engine for proposal in made.each] == [None, "e1"]
    gateway.fast_path.learn(gateway.pool.name, made, None)


async def test_those_of_one_call_keep_their_order(gateway: Gateway) -> None:
    # Also when their engine gives them back, in whatever order.
    await gateway.pool.engine(slots=3)
    await gateway.look(["e1"])
    assert await gateway.accept("c", "b", "a") == [True] * 3
    for name in "abc":
        await gateway.pool.requeue(name)
    assert await gateway.pool.waiting_ids() == ["c", "b", "a"]


async def test_nothing_while_requests_are_ahead_and_again_once_none_is(gateway: Gateway) -> None:
    await gateway.pool.engine(slots=3)
    await gateway.look()
    await gateway.pool.accept("other")
    assert await gateway.accept("a") == [False], "it was not known"
    assert await gateway.propose("b") is None, "now it is"
    assert await gateway.accept("b") == [False]
    arrivals = (await gateway.pool.take()).arrivals
    await gateway.pool.admit(*(gateway.pool.admission(entry, engine="e1") for entry in arrivals))
    await gateway.pool.finish("other")
    assert await gateway.accept("c") == [False], "this one finds that nobody is ahead any more"
    await gateway.pool.admit(
        *(gateway.pool.admission(entry, engine="e1") for entry in (await gateway.pool.take()).arrivals)
    )
    await gateway.pool.finish("a")
    assert await gateway.accept("d") == [True]


async def test_nothing_on_an_old_snapshot(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    await gateway.pool.engine()
    await gateway.look()
    monkeypatch.setattr(module, "SNAPSHOT_KEPT_S", 0.0)
    assert await gateway.propose("a") is None
    monkeypatch.undo()
    assert await gateway.engines("a") == ["e1"]


async def test_the_snapshot_is_read_again_now_and_then(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.0)
    await gateway.pool.engine()
    await gateway.look()
    await gateway.pool.engine("e2")

    async def known() -> bool:
        return "e2" in await gateway.engines("a", "b")

    await wait_until(known, what="the new engine is known")


async def test_an_engine_that_its_pace_closed_opens_by_time(gateway: Gateway) -> None:
    await gateway.pool.engine(slots=3, pace_tps=1000.0)
    await gateway.look()
    assert await gateway.accept("a", prompt_tokens=500) == [True]
    assert await gateway.propose("too-soon", prompt_tokens=500) is None
    gateway.pool.clock.advance(1000)
    assert await gateway.accept("b", prompt_tokens=500) == [True]


@pytest.mark.parametrize("setting", ["policy", "placement"])
async def test_nothing_by_a_policy_that_is_not_known(gateway: Gateway, setting: str) -> None:
    await gateway.pool.engine()
    await gateway.look()
    await set_policy(gateway.pool.store, gateway.pool.name, {setting: "of-tomorrow"}, {})
    await gateway.look_anew()
    assert await gateway.propose("a") is None
    await set_policy(gateway.pool.store, gateway.pool.name, {setting: "fifo" if setting == "policy" else ""}, {})
    await gateway.look_anew()
    assert await gateway.accept("a") == [True]


async def test_a_policy_that_has_changed_since_holds_from_the_next_look_on(gateway: Gateway) -> None:
    await gateway.pool.engine(slots=2)
    await gateway.look()
    await set_policy(gateway.pool.store, gateway.pool.name, {"policy": "fair"}, {})
    assert await gateway.accept("a", tenant="t") == [False]
    await gateway.pool.store.commands.delete(*gateway.pool.keys.intake)
    await gateway.accept("nobody-is-ahead")
    await gateway.pool.store.commands.delete(*gateway.pool.keys.intake)
    await gateway.look_anew()
    assert await gateway.accept("b", tenant="t") == [True]
    assert (await gateway.pool.record("b")).keys() >= {"start", "charge", "epoch"}


async def test_a_call_that_failed_gives_the_room_back_and_leads_to_a_look(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next one would be due after the test.
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3600.0)
    await gateway.pool.engine()
    await gateway.look()
    before = gateway.of_pool()._looked_at
    made = await gateway.propose("a")
    assert made is not None
    assert await gateway.engines("b") == [None] or await gateway.engines("b") == [], "the place is taken"
    gateway.fast_path.learn(gateway.pool.name, made, None)
    assert await gateway.engines("b") == ["e1"]

    async def looked() -> bool:
        await gateway.engines("b")
        return gateway.of_pool()._looked_at > before

    await wait_until(looked, what="it has looked")


async def test_room_that_the_snapshot_does_not_see_leads_to_a_look(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next one would be due after the test.
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3600.0)
    monkeypatch.setattr(module, "SNAPSHOT_KEPT_S", 3600.0)
    await gateway.pool.engine()
    await gateway.look()
    assert await gateway.accept("a") == [True]
    assert await gateway.propose("b") is None, "there is no room"
    await gateway.pool.finish("a")
    assert await gateway.accept("b") == [False]
    await gateway.pool.admit(
        *(gateway.pool.admission(entry, engine="e1") for entry in (await gateway.pool.take()).arrivals)
    )
    await gateway.pool.finish("b")
    await gateway.look()
    assert await gateway.accept("c") == [True]


async def test_a_prompt_goes_where_others_have_placed_its_beginning(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 3600.0)
    monkeypatch.setattr(proposal, "PLACEMENTS_READ_S", 0.0)
    pool = gateway.pool
    for engine in ("e1", "e2", "e3"):
        await pool.engine(engine, slots=4)
    async with GatewayFastPath(pool.store) as fast_path:
        placed: list[dict[int, str]] = []
        for one in (gateway, Gateway(pool, fast_path)):
            await wait_until(one.ready, what="it proposes")
            placed.append({})
            for n in range(4):
                name, prefix = f"{len(placed)}-{n}", tuple(f"{n}-{block}" for block in PREFIX)
                assert await one.accept(name, prefix=prefix, prompt_tokens=4000) == [True]
                placed[-1][n] = (await pool.record(name))["engine"]
                await pool.finish(name, engine=placed[-1][n])
    assert placed[0] == placed[1]
    assert len(set(placed[0].values())) > 1
