"""What one client has been told in answer to one question, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import orjson

from ..wire.event import CHUNK, END, EVENT_STREAM, Ending, Event
from ..wire.states import Outcome
from .comparison import Flaw, compare
from .question import Question

DONE = b"[DONE]"
INTERRUPTIONS = frozenset({"engine_lost", "engine_broken", "engine_unreachable", "engine_timeout", "engine_error"})
"""Error codes that may end an answer whose engine or worker died after part of it was out."""


class Transcript:
    """An answer as it came, from its first token to its end. ``restart`` begins a new reading of the same answer."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.position = (0, 0)
        """Of the last event read by the client library."""
        self.last_event_id: str | None = None
        """Of the last whole event of a numbered stream."""
        self.flaws: Counter[Flaw] = Counter()
        """Of readings that were given up."""
        self._begin()

    def _begin(self) -> None:
        self.pieces: list[str] = []
        self.error: str | None = None
        """The error code with which it ended."""
        self.done = False
        self._finish_reasons: list[str] = []
        self._usages: list[int] = []
        self._after_end = 0
        self.reconnect()

    def reconnect(self) -> None:
        """A new connection goes on behind the last whole event; half of one is worth nothing."""
        self._partial = b""
        self._event_id: str | None = None
        self._event: list[bytes] = []

    @property
    def ended(self) -> bool:
        """Whether the client has been told how it ended."""
        return self.done or self.error is not None

    def restart(self) -> None:
        """The answer will be read from its beginning again; what came so far must have been right, too."""
        self.flaws += self._flaws_of_reading()
        self.position = (0, 0)
        self.last_event_id = None
        self._begin()

    def check(self) -> Counter[Flaw]:
        """Everything that is wrong with it; empty: nothing."""
        return self.flaws + self._flaws_of_reading()

    def take_stream(self, data: bytes) -> None:
        """More bytes of a stream of server-sent events."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                self._event.append(line[6:].strip())
            elif line.startswith(b"id: "):
                self._event_id = line[4:].strip().decode()
            elif not line.strip():
                self._dispatch()

    def take_whole(self, body: bytes) -> None:
        """A whole answer."""
        self._note_life()
        answer = orjson.loads(body)
        choice = answer["choices"][0]
        self.pieces = _tokens(choice["message"]["content"])
        self._finish_reasons.append(choice["finish_reason"])
        self._usages.append(answer["usage"]["completion_tokens"])
        self.done = True

    def take_error(self, code: str) -> None:
        """It ended with an error."""
        self._note_life()
        self.error = code

    def take_event(self, event: Event) -> None:
        """An event of the client library, or of the output log."""
        self.position = event.position
        if event.type == CHUNK:
            self.take_stream(event.payload)
        elif event.type == END:
            ending = Ending.decode(event.payload)
            if ending.outcome is Outcome.COMPLETED and not ending.content_type.startswith(EVENT_STREAM):
                self.take_whole(ending.body)
            elif ending.outcome is Outcome.COMPLETED:
                self.take_stream(ending.body)
            else:
                if ending.content_type.startswith(EVENT_STREAM):
                    self.take_stream(ending.body)
                self.take_error(ending.code or str(ending.outcome))

    def take_events(self, events: Iterable[Event]) -> None:
        """Several of them."""
        for event in events:
            self.take_event(event)

    def _dispatch(self) -> None:
        """The event is whole."""
        event, self._event = self._event, []
        for data in event:
            self._take_data(data)
        if event and self._event_id is not None:
            self.last_event_id, self._event_id = self._event_id, None

    def _take_data(self, data: bytes) -> None:
        if data == DONE:
            self._note_life()
            self.done = True
            return
        try:
            chunk = cast(dict[str, Any], orjson.loads(data))
        except orjson.JSONDecodeError:
            self.flaws[Flaw.WRONG] += 1
            return
        if "error" in chunk:
            self.take_error(str(chunk["error"].get("code") or chunk["error"].get("type")))
            return
        self._note_life()
        if usage := chunk.get("usage"):
            self._usages.append(usage["completion_tokens"])
        for choice in chunk["choices"]:
            if piece := choice["delta"].get("content"):
                self.pieces.append(piece)
            if reason := choice["finish_reason"]:
                self._finish_reasons.append(reason)

    def _note_life(self) -> None:
        """Nothing may come after the end."""
        self._after_end += self.ended

    def _flaws_of_reading(self) -> Counter[Flaw]:
        flaws = compare(self.question.expected, self.pieces, whole=self.done)
        if self._after_end:
            flaws[Flaw.DOUBLED] += self._after_end
        if self.done:
            flaws[Flaw.WRONG] += self._finish_reasons != ["length"]
            flaws[Flaw.WRONG] += self._usages != [self.question.tokens]
        return +flaws


def _tokens(text: str) -> list[str]:
    """The tokens that make up a text: words, all but the first with the space before them."""
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]
