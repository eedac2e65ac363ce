"""What is not to be served late is refused as soon as it cannot meet its objective, whatever the engines do."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from .asking import CHAT_PATH, chat, error_of, post_chat
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .occupying import occupy

LONG = "x" * 200_000
"""Some 50,000 tokens: seconds of prefill on an engine of which nothing is known yet."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("by", ["request", "pool"])
async def test_while_all_engines_are_busy(
    busy_engine: SimulatedEngine, start_system: StartSystem, by: str, stream: bool
) -> None:
    system = await start_system(busy_engine, scheduler_sweep_s=60)
    headers = {"X-SLO-Deadline-Ms": "300", "X-SLO-Reject": "true"}
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs")
        if by == "pool":
            headers = {}
            settings = {"late": "refuse", "ttft_slo_ms": 300}
            async with system.session.post(system.url + "/admin/set_policy", json=settings) as response:
                assert response.status == 200
            async with system.session.get(system.url + "/admin/metrics"):
                pass  # the gateway has looked at the pool since then, and can say what its policy is
        began = time.monotonic()
        async with asyncio.timeout(20), post_chat(system, headers, stream=stream) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            error = await error_of(response)
            assert error["code"] == "too_late"
            if by == "request":
                assert error["param"] == "X-SLO-Deadline-Ms"
                assert error["message"].endswith(" X-SLO-Deadline-Ms is 300.")
            else:
                assert error["message"].endswith(" The model's policy has ttft_slo_ms=300.")
        assert time.monotonic() - began >= 0.25, "until then it could have been served in time"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_late_from_the_start_while_all_engines_are_busy(
    busy_engine: SimulatedEngine, start_system: StartSystem, stream: bool
) -> None:
    system = await start_system(busy_engine, scheduler_sweep_s=60)
    headers = {"X-SLO-Deadline-Ms": "200", "X-SLO-Reject": "true"}
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs")
        body = chat(LONG, max_tokens=4, stream=stream)
        async with (
            asyncio.timeout(20),
            system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as response,
        ):
            assert response.status == 503
            assert (await error_of(response))["code"] == "too_late"


@pytest.mark.parametrize("fast_path", [True, False])
async def test_what_is_late_from_the_start_on_an_idle_engine(
    start_engine: StartEngine, start_system: StartSystem, fast_path: bool
) -> None:
    engine = await start_engine()
    system = await start_system(engine, gateway_fast_path=fast_path)
    for number in range(4):
        headers = {"X-SLO-Deadline-Ms": "200", "X-SLO-Reject": "true", "X-Request-ID": f"late-{number}"}
        body = chat(LONG, max_tokens=4, stream=number % 2 == 1)
        async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await error_of(response))["code"] == "too_late"
    assert (await engine.state())["total_requests"] == 0
    headers = {"X-SLO-Deadline-Ms": "200"}
    async with system.session.post(system.url + CHAT_PATH, json=chat(LONG, max_tokens=4), headers=headers) as response:
        assert response.status == 200, "who did not ask to be refused is served"
