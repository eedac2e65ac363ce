"""Watches one answer come: when its first byte and its tokens were there, for what is learned of the engine."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from sagellm_control.wire.states import RequestKind

from .answer_length import AnswerLength
from .observation import EngineObservation


class AnswerWatch:
    """One call of an engine, from its start to its end: a context, while the engine is called.

    Args:
        uncached_tokens: of the prompt, as the scheduler estimated.
    """

    def __init__(self, observation: EngineObservation, kind: RequestKind, uncached_tokens: int) -> None:
        self._seen = observation
        self._kind = kind
        self._uncached_tokens = uncached_tokens
        self._began = time.monotonic()
        self._alone = False
        self.calling = False
        """The engine is being called, or answers."""
        self.heard_at = -math.inf
        """When a part of the answer came last (monotonic)."""
        self.length = AnswerLength()
        self.prefilled_elsewhere = False
        """Its first token says nothing of how fast the engine reads prompts."""
        self.predicted_first_s: float | None = None
        """When its first token was expected, from the call of the engine."""
        self.first_byte_s: float | None = None

    def __enter__(self) -> Self:
        self.predicted_first_s = self._seen.predicted_first_s(self._uncached_tokens)
        self._seen.started(self._uncached_tokens)
        self._alone = self._seen.running == 1
        self._began = time.monotonic()
        self.calling = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.calling = False
        self._seen.ended()

    def events(self, chunk: bytes) -> None:
        """Events of a stream came."""
        now = time.monotonic()
        tokens = self.length.event(chunk)
        if self.first_byte_s is None:
            self.first_byte_s = now - self._began
            self._seen.first(self.first_byte_s)
        elif tokens:
            self._seen.tokens(tokens, now - self.heard_at)
        self.heard_at = now

    def piece(self) -> None:
        """A piece of an answer that is no stream came."""
        self.heard_at = time.monotonic()
        if self.first_byte_s is None:
            self.first_byte_s = self.heard_at - self._began

    def body(self, body: bytes) -> None:
        """An answer that is no stream is whole."""
        self.length.body(body)
        tokens = self.length.output_tokens
        if tokens and self._kind is not RequestKind.EMBEDDING:
            # Nobody saw the tokens one by one: what is left beside the expected prefill is theirs.
            took_s = time.monotonic() - self._began
            self._seen.tokens(tokens, max(0.0, took_s - (self.predicted_first_s or 0.0)))

    def stream_ended(self) -> None:
        """A stream is whole: what its prompt took is known."""
        if self.first_byte_s is not None and not self.prefilled_elsewhere:
            uncached = self.length.uncached_tokens
            tokens = self._uncached_tokens if uncached is None else uncached
            self._seen.prefilled(tokens, self.first_byte_s, alone=self._alone and self._seen.running == 1)
