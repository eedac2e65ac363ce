"""A request whose timeout passes ends, wherever it is: 408 while it waits, 504 while it runs."""

from __future__ import annotations

import orjson
import pytest

from sagellm_control.wire.states import RequestState

from .asking import CHAT_PATH, chat, error_of
from .conftest import ENDLESS, StartEngine, StartSystem


@pytest.mark.parametrize("stream", [False, True])
async def test_408_when_the_timeout_passes_while_it_waits(
    start_engine: StartEngine, start_system: StartSystem, stream: bool
) -> None:
    engine = await start_engine(slots=1, **ENDLESS)
    system = await start_system(engine)
    async with system.session.post(
        system.url + CHAT_PATH, json=chat(max_tokens=9, stream=True), headers={"X-Request-ID": "runs"}
    ):
        await system.until("runs", RequestState.RUNNING)
        headers = {"X-Request-Timeout-Ms": "150", "X-Request-ID": "late"}
        async with system.session.post(system.url + CHAT_PATH, json=chat(stream=stream), headers=headers) as response:
            assert response.status == 408
            error = await error_of(response)
            assert (error["code"], error["param"]) == ("deadline_exceeded", "X-Request-Timeout-Ms")
            assert error["message"].endswith(" X-Request-Timeout-Ms is 150.")
        async with system.session.get(system.url + "/v1/requests/late/result") as response:
            assert (await error_of(response))["message"].endswith(" The limit was 150 ms.")
    assert await system.until_outcome("late") == "expired"
    assert (await engine.state())["total_requests"] == 1


async def test_504_when_the_timeout_passes_while_it_runs(start_engine: StartEngine, start_system: StartSystem) -> None:
    engine = await start_engine(**ENDLESS)
    system = await start_system(engine)
    # Long enough to be running by then, on any machine.
    headers = {"X-Request-Timeout-Ms": "1500", "X-Request-ID": "slow"}
    async with system.session.post(system.url + CHAT_PATH, json=chat(max_tokens=9), headers=headers) as response:
        assert response.status == 504
        error = await error_of(response)
        assert (error["code"], error["param"]) == ("deadline_exceeded", "X-Request-Timeout-Ms")
        assert error["message"].endswith(" X-Request-Timeout-Ms is 1500.")
    assert await system.until_outcome("slow") == "expired"
    await engine.until(aborted=1, running=0)
    await system.until_idle()


async def test_a_timeout_that_nobody_asked_for_is_the_gateways(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    system = await start_system(await start_engine(**ENDLESS), gateway_request_timeout_s=1.5)
    async with system.session.post(system.url + CHAT_PATH, json=chat(max_tokens=9)) as response:
        assert response.status == 504
        error = await error_of(response)
    assert (error["code"], error["param"]) == ("deadline_exceeded", None)
    assert error["message"].endswith(" The gateway's --request-timeout-s is 1.5.")


async def test_a_timeout_in_mid_stream_ends_with_an_error_event(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    engine = await start_engine(**ENDLESS)
    system = await start_system(engine)
    headers = {"X-Request-Timeout-Ms": "200"}
    body = chat(max_tokens=9, stream=True)
    async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as response:
        assert response.status == 200
        *_, first, last = (await response.read()).strip().split(b"\n\n")
    assert b"Answer" in first
    error = orjson.loads(last.removeprefix(b"data: "))["error"]
    assert (error["code"], error["param"]) == ("deadline_exceeded", "X-Request-Timeout-Ms")
    await engine.until(aborted=1, running=0)


async def test_a_slow_first_token_is_counted_and_not_refused(
    start_engine: StartEngine, start_system: StartSystem
) -> None:
    """An SLO is an objective: a request that misses it is served all the same."""
    engine = await start_engine(prefill_tokens_per_s=1000)
    system = await start_system(engine)
    headers = {"X-SLO-Deadline-Ms": "1", "X-Request-ID": "slow"}
    async with system.session.post(
        system.url + CHAT_PATH, json=chat("x" * 80, max_tokens=2), headers=headers
    ) as response:
        assert response.status == 200
    view = await system.find("slow")
    assert view is not None
    assert view.fields["slo_ms"] == "1"
