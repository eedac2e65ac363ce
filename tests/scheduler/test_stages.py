"""Pools with engines that take one stage only: who may go where, and schedulers that do not miss a stage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.scheduler.placement import PLACEMENTS, make_placement
from sagellm_control.wire.engine import EngineRole, EngineRow, EngineSpeed
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival

from ..pool_driver import PoolDriver
from ..waiting import wait_until
from .requests import NOW_MS, forecast, request
from .running import everything_is_settled, metric, schedulers
from .test_open_engines import calls_of

ROLES = {
    "g": EngineRole.GENERAL,
    "h": EngineRole.HYBRID,
    "p": EngineRole.PREFILL,
    "d": EngineRole.DECODE,
}


def view(names: str, **row: Any) -> OpenEngines:
    """READY engines, by the first letters of their roles."""
    engines = OpenEngines()
    ids = [f"{name}{n}" for n, name in enumerate(names)]
    engines.learn(EngineRow(e, "pool", "", "vllm", 4, ("pool", "lora"), role=ROLES[e[0]], **row) for e in ids)
    engines.refresh(dict.fromkeys(ids, 4))
    return engines


@pytest.mark.parametrize(
    ("pool", "fields", "takers"),
    [
        ("pdgh", {}, "pgh"),
        ("pdgh", {"stage": "decode"}, "dgh"),
        ("pdgh", {"model": "lora"}, "pgh"),
        ("pdgh", {"model": "other"}, ""),
        ("pdgh", {"kind": "chat"}, "pgh"),
        ("pdgh", {"kind": "embedding"}, "gh"),
        ("pdgh", {"kind": "reservation"}, "gh"),
        ("pd", {}, "p"),
        ("pd", {"stage": "decode"}, "d"),
        ("pd", {"kind": "embedding"}, "pd"),
        ("pg", {}, "pg"),
        ("pg", {"stage": "decode"}, "g"),
        ("p", {}, ""),
        ("p", {"stage": "decode"}, ""),
        ("d", {}, ""),
        ("dg", {}, "g"),
        ("gh", {}, "gh"),
        ("gh", {"stage": "decode"}, "gh"),
        ("gh", {"kind": "embedding"}, "gh"),
    ],
)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_who_may_go_where(pool: str, fields: dict[str, Any], takers: str, placement: str) -> None:
    engines, what = view(pool), forecast()
    asked = request(prefix=("b1", "b2"), session="s", **fields)
    for engine in engines.loads():
        assert engines.can_take(engine.row.engine_id, asked, what) == (engine.row.engine_id[0] in takers)
    chosen = make_placement(placement).choose(asked, what, engines, NOW_MS)
    assert (chosen is None) == (not takers)
    assert chosen is None or (isinstance(chosen, str) and chosen[0] in takers)


@pytest.mark.parametrize(
    ("pool", "fields", "takers"),
    [
        ("pd", {"kind": "chat"}, "d"),
        ("pd", {"kind": "chat", "stage": "prefill"}, "p"),
        ("pd", {"kind": "chat", "stage": "decode"}, ""),
        ("pd", {"kind": "embedding"}, ""),
        ("pdg", {"kind": "chat"}, "dg"),
        ("pdg", {"kind": "chat", "stage": "prefill"}, "p"),
        ("pdg", {"kind": "embedding"}, "g"),
        ("d", {"kind": "chat"}, ""),
        ("dg", {"kind": "chat"}, "g"),
        ("p", {"kind": "chat"}, ""),
    ],
)
def test_who_may_go_where_in_pairs(pool: str, fields: dict[str, Any], takers: str) -> None:
    engines = OpenEngines()
    ids = [f"{name}{n}" for n, name in enumerate(pool)]
    for e in ids:
        kinds = () if e[0] == "g" else ("chat", "completion")
        engines.learn([EngineRow(e, "pool", "", "sglang", 4, ("pool",), role=ROLES[e[0]], kinds=kinds)])
    engines.refresh(dict.fromkeys(ids, 4))
    asked = request(**fields)
    assert {engine[0] for engine in engines.by_load(asked)} == set(takers)
    for engine in ids:
        reads_nothing = engine[0] == "d" or fields.get("stage") == "decode"
        assert (engines.uncached_tokens(engine, asked, forecast()) == 0) == reads_nothing


def test_pairs_beside_engines_that_hand_over() -> None:
    engines = view("pdg")
    engines.learn(EngineRow(e, "pool", "", "sglang", 4, ("pool",), role=ROLES[e[0]]) for e in ("p8", "d9"))
    engines.refresh(dict.fromkeys(("p0", "d1", "g2", "p8", "d9"), 4))
    assert set(engines.by_load(request())) == {"p0", "g2", "d9"}
    assert set(engines.by_load(request(stage="prefill"))) == {"p8"}
    assert set(engines.by_load(request(stage="decode"))) == {"d1", "g2"}


async def test_a_prompt_is_ahead_of_whatever_waits(pool: PoolDriver) -> None:
    """Its request holds a place meanwhile."""
    row: dict[str, Any] = {"kind": "sglang", "kinds": ("chat",)}
    await pool.engine("d", role=EngineRole.DECODE, slots=0, **row)
    await pool.engine("p", role=EngineRole.PREFILL, slots=0, **row)
    async with schedulers(pool):
        await pool.accept(*(f"r{n}" for n in range(20)))
        await pool.accept("late", stage="prefill")
        await pool.accept("urgent", stage="prefill", priority=RequestPriority.CRITICAL)

        async def all_wait() -> bool:
            return len(await pool.waiting_ids()) == 22

        await wait_until(all_wait)
    assert set((await pool.waiting_ids())[:2]) == {"late", "urgent"}


def test_engines_come_and_go() -> None:
    engines = view("pd")
    assert list(engines.by_load(request())) == ["p0"]
    engines.close("d1")
    assert list(engines.by_load(request())) == []
    engines.learn([EngineRow("g9", "pool", "", "vllm", 4, ("pool",))])
    engines.refresh({"p0": 4, "g9": 4})
    assert set(engines.by_load(request())) == {"p0", "g9"}
    engines.learn([EngineRow("p0", "pool", "", "vllm", 4, ("pool",), role=EngineRole.DECODE)])
    assert set(engines.by_load(request())) == {"g9"}
    assert set(engines.by_load(request(stage="decode"))) == {"p0", "g9"}


def test_who_has_failed_it_gets_it_again_only_if_its_stage_has_no_other() -> None:
    engines = view("pddg")
    assert set(engines.by_load(request(excluded=("p0",)))) == {"g3"}
    assert set(engines.by_load(request(stage="decode", excluded=("d1", "g3")))) == {"d2"}
    assert set(view("pd").by_load(request(excluded=("p0",)))) == {"p0"}


def test_each_stage_takes_the_room_that_it_needs() -> None:
    engines = view("pd", kv_tokens=5000, speed=EngineSpeed(1000.0), pace_tps=500.0)
    what = forecast(4000, 900.0)
    begun = engines.reserve("p0", request(), what, NOW_MS)
    assert (begun.kv_tokens, begun.uncached_tokens) == (4001, 4000)
    decoded = engines.reserve("d1", request(stage="decode"), what, NOW_MS)
    assert (decoded.kv_tokens, decoded.uncached_tokens) == (4900, 0)
    load = engines.load_of("d1")
    assert load is not None
    assert not load.is_paced(NOW_MS), "it reads no prompt"


def crowd(number: int) -> OpenEngines:
    return view("ppddg" * (number // 5))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("stage", ["", "decode"])
def test_the_cost_does_not_grow_with_the_engines(placement: str, stage: str) -> None:
    asked = Arrival("r", RequestPriority.NORMAL, 0.0, stage=stage)
    chooser = make_placement(placement)

    def ask(engines: OpenEngines) -> None:
        chosen = chooser.choose(asked, Forecast(100, 10.0, 10.0, 100.0), engines, NOW_MS)
        assert isinstance(chosen, str)
        engines.give_back(engines.reserve(chosen, asked, Forecast(100, 10.0, 10.0, 100.0), NOW_MS))

    few, many = crowd(20), crowd(500)
    ask(few)
    ask(many)
    assert calls_of(lambda: ask(many)) <= 1.5 * calls_of(lambda: ask(few)) + 5


async def _finish_decodes(pool: PoolDriver, engine: str, done: list[str]) -> None:
    for entry in await pool.assigned_entries(engine):
        assert entry["stage"] == "decode"
        if await pool.finish(entry["id"], attempt=int(entry["attempt"]), engine=engine):
            done.append(entry["id"])


@pytest.mark.parametrize("count", [1, 3])
async def test_no_scheduler_misses_a_stage(pool: PoolDriver, count: int) -> None:
    """Each has met the requests while they waited for the prefilling engine, and what it remembers is outdated."""
    await pool.engine("p", role=EngineRole.PREFILL, slots=1)
    await pool.engine("d", role=EngineRole.DECODE, slots=1)
    ids = [f"r{n:02}" for n in range(20)]
    done: list[str] = []
    async with schedulers(pool, count):
        for request_id in ids:
            await pool.accept(request_id)
        await wait_until(lambda: everything_is_settled(pool))
        async with asyncio.timeout(20):
            while len(done) < len(ids):
                for entry in await pool.assigned_entries("p"):
                    assert entry["stage"] == "prefill"
                    assert await pool.advance(entry["id"], attempt=int(entry["attempt"]), engine="p") == "waiting"
                await _finish_decodes(pool, "d", done)
                await asyncio.sleep(0.002)
    assert done == ids, "the second stage goes in the order of the first"
    assert metric(pool, "missed_wakeups") == 0


async def test_what_was_remembered_of_a_request_does_not_keep_it_waiting(pool: PoolDriver) -> None:
    await pool.engine("p", role=EngineRole.PREFILL, slots=1)
    await pool.engine("d", role=EngineRole.DECODE, slots=1)
    async with schedulers(pool):
        await pool.accept("busy")
        await wait_until(lambda: pool.holds("p"))
        await pool.accept("a")
        await wait_until(lambda: everything_is_settled(pool))
        assert await pool.waiting_ids() == ["a"]
        # Another scheduler, and a worker, have had it meanwhile.
        done = {"stage": "decode", "transfer": "", "attempt": "1", "prefilled_ms": pool.clock()}
        await pool.store.commands.hset(pool.keys.record("a"), mapping=done)
        await pool.store.commands.xadd(pool.keys.freed, {"engine": "d", "free": "1"})
        assert await wait_until(lambda: pool.holds("d")) == {"a"}


async def test_under_a_fair_order_the_prompt_of_another_request_is_charged_to_nobody(pool: PoolDriver) -> None:
    await pool.engine()
    async with schedulers(pool, policy="fair"):
        await pool.accept("request", prompt_tokens=1000)
        await wait_until(lambda: everything_is_settled(pool))
        await pool.accept("waits", prompt_tokens=1000)
        await pool.accept("prompt", prompt_tokens=1000, stage="prefill")
        await wait_until(lambda: everything_is_settled(pool))
        assert await pool.waiting_ids() == ["prompt", "waits"]
        starts = await pool.store.commands.zrange(pool.keys.tenants, 0, -1, withscores=True)
        await pool.finish("request")
        await wait_until(lambda: everything_is_settled(pool))
        assert await pool.holds() == {"prompt"}
    after = dict(await pool.store.commands.zrange(pool.keys.tenants, 0, -1, withscores=True))
    assert after.items() >= dict(starts).items(), "nobody is put off by it"
    assert await pool.store.commands.hget(pool.keys.backlog, "ranked/prompts") is None
