"""An attempt has the rest of its request's time, from when its worker was told of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome
from sagellm_workers.adapters.base import EngineAdapter, EngineCall, EngineReply
from sagellm_workers.attempts.attempt import Attempt, Reports

from ..assignments import ASSIGNED_MS, assignment

TIMEOUT_S = 60.0


class Hangs:
    """An engine that never says anything."""

    @asynccontextmanager
    async def run(self, _: EngineCall) -> AsyncGenerator[EngineReply]:
        await asyncio.Event().wait()
        yield cast(EngineReply, None)


class Endings:
    """What was reported."""

    def __init__(self) -> None:
        self.found: list[Ending] = []

    def finish(self, _: Attempt, ending: Ending) -> None:
        self.found.append(ending)


async def test_what_it_was_held_for_counts() -> None:
    given = assignment(timeout_at_ms=ASSIGNED_MS + TIMEOUT_S * 1000)
    endings = Endings()
    attempt = Attempt(given, cast(EngineAdapter, Hangs()), cast(Reports, endings), "e1")
    attempt._taken_at = time.monotonic() - (TIMEOUT_S - 0.05)  # pyright: ignore[reportPrivateUsage]
    task = asyncio.create_task(attempt.run(b"{}"))
    attempt.start(task)
    async with asyncio.timeout(TIMEOUT_S / 2):
        await task
    assert [ending.outcome for ending in endings.found] == [Outcome.EXPIRED]
