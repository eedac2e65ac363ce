"""One question to the queue: submit it, follow it, print what comes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import click
import orjson
from redis.exceptions import RedisError

from ..client import QueueClient, QueueError
from ..client.submit_arguments import COUNTS_BELOW
from ..stopping import run_until, stop_requested, terminal_signals
from ..store.settings import RedisSettings
from ..store.views import RequestView, find_request
from ..wire.engine_error import error_said
from ..wire.event import CHUNK, END, Ending
from ..wire.priority import RequestPriority
from ..wire.states import Outcome, RequestKind, RequestState
from .answer_text import EventText, text_of

_LOOK_EVERY_S = 1.0
"""Between two looks at where a request is that has not begun to answer: for a person to read."""

_CANCEL_WITHIN_S = 3.0
"""Who presses Ctrl-C does not want to wait for a Redis that is gone."""


@dataclass(frozen=True)
class Question:
    """What to ask, and how urgently."""

    model: str | None
    """None: the first model that has a ready engine."""
    body: dict[str, Any]
    priority: RequestPriority
    tenant: str
    timeout_s: float | None
    as_text: bool
    """Print the text of the answer, not its JSON."""

    @property
    def max_tokens(self) -> int:
        """What the body says; 0: nothing that is a number of tokens, of which the engine says what it thinks."""
        said = self.body.get("max_tokens")
        return said if type(said) is int and 0 < said < COUNTS_BELOW else 0

    @property
    def kind(self) -> RequestKind:
        """Which endpoint the body is for."""
        if "input" in self.body:
            return RequestKind.EMBEDDING
        return RequestKind.COMPLETION if "prompt" in self.body else RequestKind.CHAT


async def ask(redis: RedisSettings, question: Question) -> bool | None:
    """Put the question through the queue; whether it was answered. None: interrupted, and cancelled.

    Raises:
        OSError: nobody takes the answer, as its reader has gone or its disk is full; the request is cancelled.
    """
    answered = False

    async def work() -> None:
        nonlocal answered
        async with QueueClient.connect(redis) as queue:
            answered = await _ask(queue, question)

    async with stop_requested(terminal_signals()) as stop:
        await run_until(stop, work())
        return None if stop.is_set() else answered


async def _ask(queue: QueueClient, question: Question) -> bool:
    model = question.model or await _first_model(queue)
    started = time.monotonic()
    submission = await queue.submit(
        model,
        orjson.dumps({**question.body, "model": model}),
        kind=question.kind,
        priority=question.priority,
        tenant=question.tenant,
        timeout_s=question.timeout_s,
        stream=bool(question.body.get("stream")),
        max_tokens=question.max_tokens,
    )
    request_id = submission.request_id
    _note(f"request {request_id}, model {model}, priority {question.priority.name}")
    text = EventText()
    try:
        ending, first_s = await _print_pieces(queue, request_id, text, started)
    except (asyncio.CancelledError, OSError):
        _note(f"cancelling {request_id}")
        with contextlib.suppress(TimeoutError, RedisError, OSError):
            async with asyncio.timeout(_CANCEL_WITHIN_S):
                await queue.cancel(request_id)
        raise
    if ending is None:
        return False
    return _print_end(ending, question, text, first_s, time.monotonic() - started)


async def _print_pieces(
    queue: QueueClient, request_id: str, text: EventText, started: float
) -> tuple[Ending | None, float]:
    """Print all but the last piece; how it ended, and when (s) the first of it was there."""
    first_s = 0.0
    ending: Ending | None = None
    async with _following(queue, request_id) as following:
        async for event in queue.stream(request_id):
            following.cancel()
            first_s = first_s or time.monotonic() - started
            if event.type == CHUNK:
                for piece in text.feed(event.payload):
                    click.echo(piece, nl=False)
            elif event.type == END:
                ending = Ending.decode(event.payload)
    return ending, first_s


def _print_end(ending: Ending, question: Question, text: EventText, first_s: float, all_s: float) -> bool:
    if ending.outcome is not Outcome.COMPLETED:
        reason = ending.message or error_said(ending.body).message or ending.body.decode(errors="replace")
        _note("")
        code = f", {ending.code}" if ending.code else ""
        _note(f"Error: {ending.outcome} ({ending.status}{code}): {reason}")
        return False
    if question.body.get("stream"):
        pieces = list(text.feed(ending.body))
    else:
        pieces = list(text_of(ending.body)) if question.as_text else []
        pieces = pieces or [ending.body.decode(errors="replace")]
    click.echo("".join(pieces))
    engine = f" by {ending.engine}" if ending.engine else ""
    _note(f"completed{engine}: first output after {first_s:.3f} s, all after {all_s:.3f} s")
    return True


@contextlib.asynccontextmanager
async def _following(queue: QueueClient, request_id: str) -> AsyncGenerator[asyncio.Task[None]]:
    """Tells where the request is, until it is cancelled because the answer begins."""
    task = asyncio.create_task(_tell_where(queue, request_id), name=f"follow {request_id}")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _tell_where(queue: QueueClient, request_id: str) -> None:
    told = ""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        view = await find_request(queue.store, request_id)
        where = _where(view) if view is not None else ""
        if where and where != told:
            _note(where)
            told = where


def _where(view: RequestView) -> str:
    match view.state:
        case RequestState.WAITING:
            ahead = f", {view.position} ahead of it" if view.position is not None else ""
            return f"waiting{ahead}"
        case RequestState.QUEUED:
            return "queued: no scheduler has looked at it yet"
        case RequestState.ASSIGNED | RequestState.RUNNING:
            return f"{view.state} on {view.engine}"
        case RequestState.FINISHED:
            return ""


async def _first_model(queue: QueueClient) -> str:
    await queue.pools.look()
    models = queue.pools.available_models() or sorted(queue.pools.models)
    if not models:
        raise QueueError("No engine has registered yet: start a worker, or everything with `sagellm-control up`.")
    return models[0]


def _note(line: str) -> None:
    """Say it, if anybody is there to read it: whoever takes only the answer gets all of that."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)
