"""What a prefilling engine says means for the request that another engine holds."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome
from sagellm_workers.adapters.base import (
    EngineAdapter,
    EngineCall,
    EngineError,
    EngineReply,
    PartnerBusy,
    PartnerFailed,
    PartnerRefused,
)
from sagellm_workers.attempts.attempt import Attempt, Reports
from sagellm_workers.pairs.paired_prefill import PromptAttempt

from ..assignments import assignment

REFUSED = Ending(Outcome.REFUSED, 400, body=b'{"error":{}}')
BUSY = Ending(Outcome.FAILED, 429, code="engine_error", retry_after_s=7.0)
GIVEN = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Once"}}]}\n\n'
BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}],"stream":true}'


class Partner:
    """An engine in a pair, whose other half says this."""

    def __init__(self, said: EngineError) -> None:
        self._said = said

    @asynccontextmanager
    async def run(self, _: EngineCall) -> AsyncGenerator[EngineReply]:
        raise self._said
        yield


class Told:
    """What was reported."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Ending | None]] = []

    def finish(self, _: Attempt, ending: Ending) -> None:
        self.found.append(("finish", ending))

    def requeue(self, _: Attempt, cause: Cause, ending: Ending | None = None, reason: str = "") -> None:
        self.found.append((cause, ending))


def attempt_with(said: EngineError, told: Told, *, kind: type[Attempt] = Attempt) -> Attempt:
    adapter = cast(EngineAdapter, Partner(said))
    return kind(assignment(stream=True), adapter, cast(Reports, told), "e1", "vllm")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (PartnerRefused(REFUSED), ("finish", REFUSED)),
        (PartnerBusy(BUSY), (Cause.BUSY, BUSY)),
    ],
)
async def test_it_is_said_of_the_request(said: EngineError, told: tuple[str, Ending]) -> None:
    heard = Told()
    await attempt_with(said, heard).run(BODY)
    assert heard.found == [told]


@pytest.mark.parametrize("said", [PartnerRefused(REFUSED), PartnerFailed("it is gone")])
async def test_in_mid_answer_another_engine_goes_on(said: EngineError) -> None:
    heard = Told()
    await attempt_with(said, heard).run(BODY, [GIVEN])
    ((cause, ending),) = heard.found
    assert cause is Cause.FAILED
    assert ending is not None
    assert ending.outcome is Outcome.FAILED


async def test_a_place_that_nobody_has_heard_of_stands_in_front_of_no_ending() -> None:
    heard = Told()
    attempt = attempt_with(PartnerRefused(REFUSED), heard, kind=PromptAttempt)
    attempt.pending.append(b'data: {"bootstrap_host":"10.0.0.1"}\n\n')
    await attempt.run(BODY)
    assert (heard.found, attempt.pending) == ([("finish", REFUSED)], [])
