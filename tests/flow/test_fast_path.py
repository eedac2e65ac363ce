"""The fast path in whole systems: what nobody is ahead of needs no scheduler, and nobody is worse off for it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from sagellm_control.gateway.api_keys import hash_key
from sagellm_control.scheduler import proposal
from sagellm_control.scheduler.pool_policy import record_settings
from sagellm_control.store.connect import open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.wire.states import RequestState

from ..samples import sample
from ..waiting import wait_until
from .asking import MODEL, expected_text, post_chat
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

KEY = "sk-search-1"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}


def counted(result: str) -> float:
    return sample("sagellm_control_gateway_fast_path_total", pool=MODEL, result=result)


async def nobody_waits(system: InProcessSystem) -> bool:
    db, keys = system.store.commands, system.store.keys.pool(MODEL)
    return not await db.zcard(keys.waiting) and not any([await db.xlen(stream) for stream in keys.intake])


async def look(system: InProcessSystem, gateway: int = 0, **headers: str) -> None:
    """Chats until one has been assigned by this gateway; what it leaves in line is given up."""

    async def assigned() -> bool:
        before, seen = counted("assigned"), counted("assigned") + counted("queued")
        chatting = asyncio.create_task(ask(system, dict(headers), gateway))
        await wait_until(lambda: counted("assigned") + counted("queued") > seen)
        if counted("assigned") > before:
            await chatting
            return True
        chatting.cancel()
        await asyncio.gather(chatting, return_exceptions=True)
        await wait_until(lambda: nobody_waits(system))
        return False

    await wait_until(assigned, what=f"gateway {gateway} has looked")


async def ask(system: InProcessSystem, headers: dict[str, str], gateway: int = 0, text: str = "hello") -> str:
    messages = [{"role": "user", "content": text}]
    async with post_chat(system, headers, gateway, messages=messages) as response:
        assert response.status == 200, await response.text()
        return (await response.json())["choices"][0]["message"]["content"]


async def record(system: InProcessSystem, request_id: str) -> dict[str, str]:
    fields = await system.store.commands.hgetall(system.store.keys.pool(MODEL).record(request_id))
    return {name.decode(): value.decode() for name, value in fields.items()}


async def test_without_a_scheduler_a_chat_is_answered(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine()
    system = await start_system(engine, schedulers=0)
    await look(system)
    before, queued = counted("assigned"), counted("queued")
    for n in range(5):
        assert await ask(system, {"X-Request-ID": f"r{n}"}) == expected_text("hello", 4)
        assert (await record(system, f"r{n}"))["engine"]
    assert (counted("assigned"), counted("queued")) == (before + 5, queued)
    await engine.until(running=0, waiting=0)


async def test_switched_off_it_leaves_everything_to_a_scheduler(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    system = await start_system(await start_engine(), schedulers=0, gateway_fast_path=False)
    before = counted("assigned"), counted("queued")
    for n in range(3):
        chatting = asyncio.create_task(ask(system, {"X-Request-ID": f"r{n}"}))
        await system.until(f"r{n}", RequestState.QUEUED)
        chatting.cancel()
        await asyncio.gather(chatting, return_exceptions=True)
        await wait_until(lambda: nobody_waits(system))
        assert "engine" not in await record(system, f"r{n}")
    assert (counted("assigned"), counted("queued")) == before


@pytest.mark.parametrize("slots", [1, 2])
async def test_whoever_waits_is_not_overtaken(start_engine: StartEngine, start_system: StartSystem, slots: int) -> None:
    engine = await start_engine(slots=slots, tpot_ms=1)
    system = await start_system(engine, gateways=2)
    for gateway in (0, 1):
        await look(system, gateway)
    dice = random.Random(slots)
    chats: list[asyncio.Task[str]] = []
    at_once_before = counted("assigned")
    for n in range(150):
        # So often that at times nobody waits, and at times many do.
        headers = {"X-Request-ID": f"r{n}", "X-Request-Priority": dice.choice(["CRITICAL", "NORMAL", "BACKGROUND"])}
        chats.append(asyncio.create_task(ask(system, headers, n % 2)))
        if dice.random() < 0.2:
            await asyncio.gather(*chats)
    assert set(await asyncio.gather(*chats)) == {expected_text("hello", 4)}
    assert (await engine.state())["peak_running"] <= slots
    at_once_counted = counted("assigned") - at_once_before

    records = [await record(system, f"r{n}") for n in range(150)]
    assert {r["attempt"] for r in records} == {"1"}, "each was answered by its first attempt"
    came = [float(r["arrived_ms"]) for r in records]
    went = [float(r["assigned_ms"]) for r in records]
    # Within a script no time passes: those that have not waited at all were assigned as they were accepted.
    at_once = [n for n in range(150) if went[n] <= came[n]]
    assert len(at_once) == at_once_counted
    assert 0 < len(at_once) < 150
    for n in at_once:
        waited = [m for m in range(150) if came[m] < went[n] < went[m]]
        assert not waited, f"r{n} was assigned while {waited} waited"


async def test_a_fair_order_charges_tenants(
    start_engine: StartEngine, start_system: StartSystem, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[keys]]\nsha256 = "{hash_key(KEY)}"\ntenant = "search"\n')
    system = await start_system(await start_engine(), schedulers=0, gateway_api_keys=str(keys))
    await record_settings(system.store, MODEL, {"policy": "fair"})
    await look(system, 0, **WITH_KEY)
    db, pool = system.store.commands, system.store.keys.pool(MODEL)
    starts: list[float] = []
    for n in range(3):
        before = counted("assigned")
        await ask(system, {"X-Request-ID": f"r{n}", **WITH_KEY})
        assert counted("assigned") == before + 1
        starts.append(float((await record(system, f"r{n}"))["start"]))
        assert await db.zscore(pool.tenants, "search") > starts[-1]
        assert await db.hgetall(pool.backlog) == {}
    assert starts == sorted(set(starts)), "each begins after the one before"


async def test_a_prompt_goes_where_another_gateway_has_sent_its_beginning(
    start_engine: StartEngine, start_system: StartSystem, redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What others have placed a moment ago need not be known to anybody; here, no moment is short enough.
    monkeypatch.setattr(proposal, "PLACEMENTS_READ_S", 0.0)
    async with open_store(redis_settings) as store:
        # However much that engine has had to do lately.
        await record_settings(store, MODEL, {"placement": "prefix_affinity", "balance": "0"})
    system = await start_system(*[await start_engine(prefill_tokens_per_s=200_000) for _ in range(3)], gateways=2)
    for gateway in (0, 1):
        await look(system, gateway)
    for n in range(8):
        prompt = f"{n} of eight long prompts. " * 400
        engines: set[str] = set()
        for gateway in (n % 2, 1 - n % 2, n % 2):
            request_id = f"r{n}-{len(engines)}-{gateway}"
            await ask(system, {"X-Request-ID": request_id}, gateway, prompt)
            engines.add((await record(system, request_id))["engine"])
        assert len(engines) == 1, f"prompt {n} was sent to {engines}"
