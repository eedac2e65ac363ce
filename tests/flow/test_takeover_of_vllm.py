"""What vLLM says again of half an answer, and what the client gets of that."""

from __future__ import annotations

import pytest

from .conftest import StartEcho, StartSystem
from .echo_engine import EchoEngine
from .in_process import IN_TURN, InProcessSystem
from .test_takeover_of_others import OPENING, REST, SECOND, Relay, ask, chunk, texts


@pytest.fixture
async def engines(start_echo: StartEcho) -> list[EchoEngine]:
    engines = [await start_echo(), await start_echo()]
    for engine in engines:
        engine.card = {"owned_by": "vllm"}
    return engines


@pytest.fixture
async def system(engines: list[EchoEngine], start_system: StartSystem) -> InProcessSystem:
    return await start_system(*engines, **IN_TURN, worker_max_attempts=2)


@pytest.mark.parametrize(
    ("again", "rest"),
    [
        (["\n\nYes"], "Yes"),
        (["\n", "\nYes", "\n\n"], "Yes\n\n"),
        (["\nYes", "\n"], "Yes\n"),
        (["\n", "\n", "\nYes"], "\nYes"),
        (["Yes", "\n\n"], "Yes\n\n"),
        ([" Yes"], " Yes"),
    ],
)
async def test_white_space_that_a_template_may_trim_is_not_said_twice(
    engines: list[EchoEngine], system: InProcessSystem, again: list[str], rest: str
) -> None:
    pieces = [REST[0], *(chunk({"content": piece}, SECOND) for piece in again), *REST[2:]]
    relay = Relay(engines, [chunk(OPENING), chunk({"content": "Here:\n"}), chunk({"content": "\n"})], pieces)
    *events, last = await ask(system)
    assert relay.bodies[1]["messages"][-1] == {"role": "assistant", "content": "Here:"}
    assert "".join(texts(events)) == "Here:\n\n" + rest
    assert (events[-1]["choices"][0]["finish_reason"], last) == ("stop", "[DONE]")


async def test_nothing_but_white_space_is_begun_anew(engines: list[EchoEngine], system: InProcessSystem) -> None:
    relay = Relay(
        engines,
        [chunk(OPENING), chunk({"content": "\n"})],
        [REST[0], chunk({"content": "\nYes"}, SECOND), *REST[2:]],
    )
    *events, _ = await ask(system)
    assert relay.bodies[0] == relay.bodies[1]
    assert "".join(texts(events)) == "\nYes"
