"""Each example of the library is run as its first lines say."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from sagellm_control.store.settings import RedisSettings

from ..api.conftest import StartEngine, schedulers_and_workers, start_engine
from ..flow.conftest import SimulatedEngine

__all__ = ["start_engine"]

FOLDER = Path(__file__).parents[2] / "examples" / "library"
WITHIN_S = 60

# Example -> how many engines it is given, and what it prints.
EXAMPLES = {
    "quick_start": (1, ["Routed to engine-1 (least loaded)", "Answer"]),
    "streaming": (1, ["Answer", "[length, from engine-1]"]),
    "embeddings": (2, ["2 vectors of"]),
    "prefill_decode": (2, ["{'prefilling': 1, 'decoding': 1}", "Answer"]),
    "custom_policy": (1, ["other-0\npaying-0\npaying-1\npaying-2\nother-1\nother-2"]),
    "custom_placement": (0, ["engine-2\nengine-2\nengine-1\nengine-1"]),
    "scaling": (0, ["simulated-1: add 1 (utilization 3.00", "2 engines"]),
}


async def run(name: str, *arguments: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(FOLDER / f"{name}.py"), *arguments),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            out, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, errors.decode()
    assert b"Unclosed" not in errors
    return out.decode()


def port_of(engine: SimulatedEngine) -> str:
    return engine.url.rpartition(":")[2]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example(name: str, start_engine: StartEngine) -> None:
    engines, prints = EXAMPLES[name]
    ports = [port_of(await start_engine()) for _ in range(engines)]
    out = await run(name, *ports)
    for text in prints:
        assert text in out


async def test_the_example_of_shared_mode(start_engine: StartEngine, redis_settings: RedisSettings) -> None:
    async with schedulers_and_workers(redis_settings):
        out = await run(
            "shared_mode",
            redis_settings.url,
            port_of(await start_engine()),
            SAGELLM_CONTROL_REDIS_NAMESPACE=redis_settings.namespace,
        )
    assert "Answer" in out


def test_each_example_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {*EXAMPLES, "shared_mode"}
