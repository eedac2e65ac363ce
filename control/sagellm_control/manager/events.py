"""A streamed answer in the protocol's events: one start, deltas, one end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import orjson
from sagellm_protocol import (
    ErrorCode,
    Request,
    StreamEvent,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
)

from ..engine_access import data_of
from .backend import Piece, RequestFailed
from .failures import said_error
from .responses import UNKNOWN_TOKEN, failed_metrics, finish_reason, metrics

NO_ENGINE = "no-engine"
"""Stands for the engine in the end event of a request that never had one."""


class EventWriter:
    """Writes the events of one answer. ``done`` when its end has been seen."""

    def __init__(self, request: Request) -> None:
        self._ids: dict[str, Any] = {"request_id": request.request_id, "trace_id": request.trace_id}
        self._began = time.monotonic()
        self._first: float | None = None
        self._engine_id = ""
        self._started = False
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._extra: dict[str, Any] = {}
        self.done = False

    @property
    def ttft_ms(self) -> float:
        """From the call to the first piece of text, as it was seen from here."""
        return ((self._first or time.monotonic()) - self._began) * 1000

    def feed(self, piece: Piece) -> Iterator[StreamEvent]:
        """The events of a piece. Raises RequestFailed if it tells of a failure or cannot be read."""
        self._engine_id = piece.engine_id
        for data in data_of(piece.data) if piece.events else [piece.data]:
            if data.strip() == b"[DONE]":
                self.done = True
                continue
            try:
                payload = cast(dict[str, Any], orjson.loads(data))
                failure = said_error(payload)
                if failure is None:
                    yield from self._chunk(payload)
                    continue
            except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
                failure = RequestFailed(
                    ErrorCode.UNAVAILABLE, f"Stream error: an event that cannot be read: {error}", retryable=True
                )
            raise failure
        if not piece.events:
            self.done = True

    def end(self) -> Iterator[StreamEvent]:
        """What comes last: the end event, of an error if the stream has just stopped."""
        if not self.done and self._finish is None:
            yield from self.fail(
                RequestFailed(ErrorCode.UNAVAILABLE, "Stream error: it ended without an end", retryable=True)
            )
            return
        yield from self._start()
        usage, output_tokens = self._usage, self._output_tokens()
        fields: dict[str, Any] = {
            **self._ids,
            "engine_id": self._engine_id,
            "content": "".join(self._text),
            "output_tokens": output_tokens,
            "finish_reason": finish_reason(self._finish),
            "metrics": metrics(
                self._extra.get("metrics"),
                self._began,
                self._first,
                usage.get("completion_tokens") or len(self._tokens),
            ),
        }
        if tokens := usage.get("prompt_tokens"):  # no prompt has none: 0 stands for an engine that does not say
            fields["prompt_tokens"] = tokens
        yield StreamEventEnd(**fields)

    def fail(self, failure: RequestFailed) -> Iterator[StreamEvent]:
        """The end event of a failure."""
        yield StreamEventEnd(
            **self._ids,
            engine_id=self._engine_id or failure.engine_id or NO_ENGINE,
            content="",
            output_tokens=[],
            finish_reason="error",
            metrics=failed_metrics(),
            error=failure.as_error(),
        )

    def _start(self) -> Iterator[StreamEvent]:
        if not self._started:
            self._started = True
            tokens = self._extra.get("prompt_tokens") or self._usage.get("prompt_tokens") or None
            yield StreamEventStart(**self._ids, engine_id=self._engine_id, prompt_tokens=tokens)

    def _chunk(self, payload: dict[str, Any]) -> Iterator[StreamEvent]:
        if isinstance(payload.get("usage"), dict):
            self._usage = payload["usage"]
        extra = payload.get("sagellm") or {}
        self._extra |= extra
        yield from self._start()
        for choice in payload.get("choices") or ():
            text = (
                choice["text"]
                if "text" in choice
                else (choice.get("delta") or choice.get("message") or {}).get("content")
            )
            if text:
                if self._first is None:
                    self._first = time.monotonic()
                tokens = self._new_tokens(payload, extra)
                self._text.append(text)
                self._tokens += tokens
                yield StreamEventDelta(**self._ids, engine_id=self._engine_id, content=text, content_tokens=tokens)
            if choice.get("finish_reason"):
                self._finish = choice["finish_reason"]

    def _new_tokens(self, payload: dict[str, Any], extra: dict[str, Any]) -> list[int]:
        """The tokens of a piece of text: their ids, or as many as the engine has counted, or one."""
        if ids := extra.get("content_tokens"):
            return list(ids)
        counted = (payload.get("usage") or {}).get("completion_tokens")
        number = 1 if counted is None else max(0, counted - len(self._tokens))
        return [UNKNOWN_TOKEN] * number

    def _output_tokens(self) -> list[int]:
        told, counted = self._extra.get("output_tokens"), self._usage.get("completion_tokens")
        # An engine that has gone on with another one's answer tells only of its own part.
        if told and counted in (None, len(told)):
            return told
        if counted is None or (len(self._tokens) == counted and UNKNOWN_TOKEN not in self._tokens):
            return self._tokens
        return [UNKNOWN_TOKEN] * counted
