"""The engine as a process: signals, ports, and stopping with requests open."""

from __future__ import annotations

import asyncio
import signal
import sys

import aiohttp
import pytest
from pydantic import ValidationError

from sagellm_control.embedded import free_port
from sagellm_control.simulated_engine import SimulatedEngineSettings
from sagellm_control.simulated_engine.process import run, serve

from .conftest import ENDLESS, WAIT_LIMIT_S, StartEngine, chat

PROGRAM = """
import sys
from sagellm_control.simulated_engine import SimulatedEngineSettings
from sagellm_control.simulated_engine.process import main
main(SimulatedEngineSettings(port=int(sys.argv[1])))
"""


async def wait_for_health(url: str) -> None:
    async with asyncio.timeout(WAIT_LIMIT_S), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url + "/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_stop_it_in_order(number: signal.Signals) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(port), stderr=asyncio.subprocess.PIPE
    )
    try:
        await wait_for_health(f"http://127.0.0.1:{port}")
        process.send_signal(number)
        async with asyncio.timeout(WAIT_LIMIT_S):
            _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_run_serves_until_cancelled() -> None:
    port = free_port()
    task = asyncio.create_task(run(SimulatedEngineSettings(port=port)))
    await wait_for_health(f"http://127.0.0.1:{port}")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_port_in_use_is_named(start_engine: StartEngine) -> None:
    engine = await start_engine()
    address = engine.url.removeprefix("http://")
    settings = SimulatedEngineSettings(port=int(address.split(":")[1]))
    with pytest.raises(OSError, match=f"cannot listen on {address} .*in use"):
        await run(settings)


@pytest.mark.parametrize("fault", [{}, {"hang_rate": 1}])
async def test_stopping_cuts_what_is_open(fault: dict[str, float]) -> None:
    settings = SimulatedEngineSettings.model_validate({"port": 0, **ENDLESS, **fault})
    async with aiohttp.ClientSession() as session:
        async with serve(settings) as url:
            task = asyncio.create_task(session.post(url + "/v1/chat/completions", json=chat()))
            async with asyncio.timeout(WAIT_LIMIT_S):
                while True:
                    async with session.get(url + "/simulated/state") as response:
                        if (await response.json())["total_requests"] == 1:
                            break
        with pytest.raises(aiohttp.ClientError):
            async with asyncio.timeout(WAIT_LIMIT_S):
                await task


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"port": 65536},
        {"models": []},
        {"wire": "grpc"},
        {"tpot_ms": -1},
        {"slot": 4},
        {"fail_rate": 0.7, "cut_rate": 0.7},
    ],
)
def test_settings_out_of_bounds(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SimulatedEngineSettings.model_validate(wrong)


def test_every_setting_is_described() -> None:
    fields = SimulatedEngineSettings.model_fields
    assert all(field.description and field.description.endswith(".") for field in fields.values())
    assert fields["slots"].default == 16
