"""Engines that become others at the same address, with fewer slots, other models or other adapters, and what runs on
them meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import orjson
import pytest

from sagellm_control.embedded.ports import free_port
from sagellm_control.store.awaited import list_awaited
from sagellm_control.store.inspect import model_index
from sagellm_control.wire.engine import EngineRole
from sagellm_control.wire.states import EngineState
from sagellm_workers.serving import served_engine
from sagellm_workers.serving.rows_of_engine import HALF_KNOWN

from ..waiting import wait_until
from .asking import CHAT_PATH
from .conftest import GOOD, StartSystem
from .echo_engine import EchoEngine
from .in_process import InProcessSystem

NEVER_S = 3600
"""Of a survey that is not to come by itself."""
HASTY_S = 0.1


@pytest.fixture
async def engine() -> AsyncGenerator[EchoEngine, None]:
    async with EchoEngine(slots=4) as engine:
        engine.answer(GOOD)
        yield engine


async def ask(system: InProcessSystem, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        await response.read()
        return response.status


async def rows(system: InProcessSystem) -> dict[str, tuple[str, int]]:
    return {view.pool: (view.state, view.slots) for view in await system.engine_views()}


async def until_rows(system: InProcessSystem, **expected: tuple[str, int]) -> None:
    named = {name.replace("_", "-"): row for name, row in expected.items()}

    async def are() -> bool:
        return await rows(system) == named

    await wait_until(are, what=f"the rows are {named}")


async def awaited(system: InProcessSystem) -> dict[str, str]:
    return {each.url: each.reason for each in await list_awaited(system.store)}


async def until_none_awaited(system: InProcessSystem) -> None:
    async def is_none() -> bool:
        return not await awaited(system)

    await wait_until(is_none, what="no engine is awaited")


async def until_served(system: InProcessSystem, *names: str) -> None:
    async def are() -> bool:
        return set(await model_index(system.store)) == set(names)

    await wait_until(are, what=f"clients may ask for {names}")


async def until_error(system: InProcessSystem) -> None:
    async def is_gone() -> bool:
        return {view.state for view in await system.engine_views()} == {EngineState.ERROR}

    await wait_until(is_gone, what="its health has gone bad")


async def test_one_that_comes_back_has_the_slots_that_it_has_then(
    engine: EchoEngine, start_system: StartSystem
) -> None:
    system = await start_system(engine, worker_survey_interval_s=NEVER_S, worker_slow_start_s=0)
    assert await rows(system) == {"echo-1": ("READY", 4)}
    await engine.vanish()
    await until_error(system)
    engine.slots = 1
    await engine.come_back()
    ready_at: list[int] = []

    async def is_ready() -> bool:
        (view,) = await system.engine_views()
        ready_at.extend([view.slots] if view.state == EngineState.READY else [])
        return bool(ready_at)

    await wait_until(is_ready)
    assert ready_at == [1], "it got requests before it was known how many it takes"
    assert await ask(system, "echo-1") == 200


async def test_slots_that_the_user_has_set_stay(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await start_system(engine, worker_survey_interval_s=HASTY_S, worker_slots=3)
    engine.slots, engine.models = 1, ("echo-1", "another")
    await until_rows(system, echo_1=("READY", 1), another=("READY", 2))
    engine.models = ("echo-1",)
    await until_rows(system, echo_1=("READY", 3), another=("STOPPED", 2))


async def test_one_that_comes_back_with_another_model_is_another(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await start_system(engine, worker_survey_interval_s=NEVER_S, worker_slow_start_s=0)
    await engine.vanish()
    await until_error(system)
    engine.models = ("echo-2",)
    await engine.come_back()
    await until_rows(system, echo_1=("STOPPED", 4), echo_2=("READY", 4))
    (old,) = [view for view in await system.engine_views() if view.pool == "echo-1"]
    assert old.reason == "the engine does not serve echo-1 any more"
    before = len(engine.reached)
    assert await ask(system, "echo-2") == 200
    assert await ask(system, "echo-1") == 503, "nobody serves it now"
    assert [orjson.loads(reached.body)["model"] for reached in engine.reached[before:]] == ["echo-2"]


async def test_what_runs_is_finished_when_its_model_goes(engine: EchoEngine, start_system: StartSystem) -> None:
    gate = asyncio.Event()
    engine.stream([b'data: {"n":1}\n\n', b"data: [DONE]\n\n"], gate=gate)
    system = await start_system(engine, worker_survey_interval_s=HASTY_S, worker_drain_s=60)
    body = {"model": "echo-1", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        assert await response.content.readuntil(b"\n\n")
        engine.models = ("echo-2",)
        await until_rows(system, echo_1=("DRAINING", 4), echo_2=("READY", 4))
        engine.models = ("echo-2", "echo-1")
        await until_rows(system, echo_1=("DRAINING", 4), echo_2=("READY", 2))
        gate.set()
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    # The model that has come back meanwhile is served again when the old session is over.
    await until_rows(system, echo_1=("READY", 2), echo_2=("READY", 2))


async def test_adapters_come_and_go_and_interrupt_nothing(engine: EchoEngine, start_system: StartSystem) -> None:
    gate = asyncio.Event()
    engine.stream([b'data: {"n":1}\n\n', b"data: [DONE]\n\n"], gate=gate)
    engine.adapters = ("old",)
    system = await start_system(engine, worker_survey_interval_s=HASTY_S)
    await until_served(system, "echo-1", "old")
    (before,) = await system.engine_views()
    body = {"model": "echo-1", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        assert await response.content.readuntil(b"\n\n")
        engine.adapters = ("new",)
        await until_served(system, "echo-1", "new")
        gate.set()
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    engine.answer(GOOD)
    assert await ask(system, "new") == 200
    assert await ask(system, "old") == 404
    (after,) = await system.engine_views()
    assert after.worker == before.worker, "it was registered anew"


async def test_an_adapter_that_another_engine_has_is_still_offered(
    engine: EchoEngine, good: EchoEngine, start_system: StartSystem
) -> None:
    engine.adapters = good.adapters = ("shared", "own")
    system = await start_system(engine, good, worker_survey_interval_s=HASTY_S)
    await until_served(system, "echo-1", "shared", "own")
    good.adapters = ("shared",)
    engine.adapters = ()
    await until_served(system, "echo-1", "shared")
    assert await ask(system, "shared") == 200


async def test_one_without_the_models_asked_for_is_looked_at_until_it_has_one(
    engine: EchoEngine, start_system: StartSystem, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_engine, "LOOK_AGAIN_S", HASTY_S)
    system = await start_system()
    async with system.worker(engine.url, model=["wanted", "or-this"]):
        await wait_until(lambda: engine.surveys > 3, what="it is asked again and again")
        said = [r.getMessage() for r in caplog.records if "none of the models" in r.getMessage()]
        problem = "it serves none of the models asked for (wanted, or-this); it has: echo-1"
        assert said == [f"waiting for engine {engine.url}: {problem}"]
        assert await rows(system) == {}
        assert await awaited(system) == {engine.url: problem}
        engine.models = ("echo-1", "wanted")
        await until_rows(system, wanted=("READY", 4))
        await until_none_awaited(system)


async def test_one_that_does_not_answer_is_shown_until_its_worker_stops(
    start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_engine, "LOOK_AGAIN_S", HASTY_S)
    system = await start_system()
    url = f"http://127.0.0.1:{free_port()}"
    async with system.worker(url):

        async def is_shown() -> bool:
            return "cannot be reached" in (await awaited(system)).get(url, "")

        await wait_until(is_shown, what="it is awaited")
    await until_none_awaited(system)


async def test_one_that_may_be_half_of_a_pair_is_served_when_that_is_known(
    engine: EchoEngine, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_engine, "LOOK_AGAIN_S", HASTY_S)
    engine.card = {"owned_by": "sglang"}
    system = await start_system()
    async with system.worker(engine.url, survey_interval_s=NEVER_S):
        await wait_until(lambda: engine.lists > 3, what="it is asked again and again")
        assert await rows(system) == {}
        assert await awaited(system) == {engine.url: HALF_KNOWN}
        engine.server_info = {"disaggregation_mode": "prefill", "max_running_requests": 3}
        await until_rows(system, echo_1=("READY", 3))
        assert [view.role for view in await system.engine_views()] == [EngineRole.PREFILL]
        await until_none_awaited(system)


async def test_a_question_without_an_answer_changes_nothing(engine: EchoEngine, start_system: StartSystem) -> None:
    system = await start_system(engine, worker_survey_interval_s=HASTY_S)
    engine.props_status = 503
    asked = engine.surveys
    await wait_until(lambda: engine.surveys > asked + 2, what="it is asked again")
    assert await rows(system) == {"echo-1": ("READY", 4)}
    engine.slots, engine.props_status = 2, 200
    await until_rows(system, echo_1=("READY", 2))


async def test_a_survey_that_is_refused_is_said_once(
    engine: EchoEngine, start_system: StartSystem, caplog: pytest.LogCaptureFixture
) -> None:
    system = await start_system(engine, worker_survey_interval_s=HASTY_S)
    engine.models_status = 401
    asked = engine.lists
    await wait_until(lambda: engine.lists > asked + 2, what="it is asked again")
    said = [r.getMessage() for r in caplog.records if "cannot be asked" in r.getMessage()]
    remedy = "set worker.api_key (SAGELLM_CONTROL_WORKER_API_KEY)"
    problem = f"engine {engine.url} wants an API key (it answered 401): {remedy}"
    assert said == [f"engine {engine.url} cannot be asked what it is now: {problem}"]
    assert await rows(system) == {"echo-1": ("READY", 4)}
    assert await awaited(system) == {}


async def test_slots_that_are_a_guess_are_said_to_be(
    engine: EchoEngine, start_system: StartSystem, caplog: pytest.LogCaptureFixture
) -> None:
    engine.props_status = 404
    system = await start_system(engine, worker_survey_interval_s=HASTY_S)
    guess = "16 slots assumed: it does not say; set worker.slots (SAGELLM_CONTROL_WORKER_SLOTS)"

    async def noted() -> list[tuple[int, str]]:
        return [(view.slots, view.reason) for view in await system.engine_views()]

    assert await noted() == [(16, guess)]
    asked = engine.surveys
    await wait_until(lambda: engine.surveys > asked + 2, what="it is asked again")
    assert await noted() == [(16, guess)], "it was lost with the first report of its health"
    assert [r.getMessage() for r in caplog.records if guess in r.getMessage()] == [f"engine {engine.url}: {guess}"]
    engine.props_status = 200
    await until_rows(system, echo_1=("READY", 4))

    async def is_gone() -> bool:
        return await noted() == [(4, "")]

    await wait_until(is_gone, what="the note is gone")
