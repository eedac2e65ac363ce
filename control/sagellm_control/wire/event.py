"""Output on its way back: the events of an answer, and the frames that carry them on an inbox channel.

A published message is a run of frames, each a header line and its payload as it is:

    <request id> <attempt>-<sequence> <type> <payload bytes>\\n<payload>\\n

so that ``redis-cli SUBSCRIBE`` shows something a person can read, and nothing is escaped or parsed on the way.
The output log holds the same events under the entry id ``<attempt>-<sequence>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from .states import Outcome

_OUTCOMES = frozenset(map(str, Outcome))

EVENT_STREAM = "text/event-stream"

CHUNK = "chunk"
"""Payload: one or more whole server-sent events, as the engine wrote them."""
END = "end"
"""Payload: an ``Ending``'s JSON on one line, then the body (or the last of it)."""


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Event:
    """One step of an answer."""

    request_id: str
    attempt: int
    sequence: int
    """From 1, within the attempt."""
    type: str
    payload: bytes

    @property
    def position(self) -> tuple[int, int]:
        """Orders the events of one request."""
        return (self.attempt, self.sequence)

    @property
    def ending(self) -> Ending | None:
        """How the request ended; None: this is not its end."""
        return Ending.decode(self.payload) if self.type == END else None

    @property
    def data(self) -> list[str]:
        """The JSON of each server-sent event in it, without ``[DONE]``; of the end, of those that came with it.

        Empty where the answer is no stream: then the ending's body is all of it.
        """
        ending = self.ending
        texts: list[str] = []
        lines: list[bytes] = []
        for line in (*(self.payload if ending is None else ending.body).splitlines(), b""):
            if line.startswith(b"data:"):
                lines.append(line.removeprefix(b"data:").removeprefix(b" "))
            elif not line and lines:
                text = b"\n".join(lines).decode(errors="replace")
                lines.clear()
                if text.strip() not in ("", "[DONE]"):
                    texts.append(text)
        return texts


Position = tuple[int, int]
"""Attempt and sequence of an event. Events are numbered from (1, 1) on."""
_POSITION = re.compile(r"(\d{1,9})-(\d{1,9})", re.ASCII)


def is_unbroken(events: Iterable[Event], behind: Position = (0, 0)) -> bool:
    """Whether these are the events of a log right behind a position: each is the next of its attempt, or the first of
    a later one. A failover may leave a log without what it had not replicated, and what came afterwards behind it."""
    attempt, sequence = behind
    for event in events:
        if event.position != (attempt, sequence + 1) and not (event.attempt > attempt and event.sequence == 1):
            return False
        attempt, sequence = event.position
    return True


def read_position(after: Position | int | str) -> Position:
    """A position as people write it: ``(1, 7)``, ``"1-7"`` as in ``Last-Event-ID``, or 7 in the first attempt.

    Raises:
        ValueError: it is none.
    """
    match after:
        case bool():
            pass
        case int() if after >= 0:
            return (1, after) if after else (0, 0)
        case str() if found := _POSITION.fullmatch(after):
            return (int(found[1]), int(found[2]))
        case (int(attempt), int(sequence)) if attempt >= 0 and sequence >= 0:
            return (attempt, sequence)
        case _:
            pass
    raise ValueError(f"after must be the position of an event, such as (1, 7), '1-7' or 7, not {after!r}")


@dataclass(slots=True)  # not frozen, as an event is not
class Ending:
    """How a request ended."""

    outcome: Outcome
    status: int = 200
    """HTTP status for the client."""
    content_type: str = "application/json"
    code: str = ""
    """Why, as a word of the table in docs/http.md; empty when the engine answered."""
    message: str = ""
    engine: str = ""
    retry_after_s: float | None = None
    body: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """The payload of an ``end`` event."""
        return self.header() + b"\n" + self.body

    def after(self, output: bytes) -> Ending:
        """The same behind the last output of a stream, which the gateway tells from an engine's error by its type."""
        body = output + self.body
        return Ending(
            self.outcome, self.status, EVENT_STREAM, self.code, self.message, self.engine, self.retry_after_s, body
        )

    def header(self) -> bytes:
        """The one line of JSON before the body."""
        fields: dict[str, Any] = {"outcome": self.outcome, "status": self.status}
        for name in ("code", "message", "engine"):
            if value := getattr(self, name):
                fields[name] = value
        if self.content_type != "application/json":
            fields["content_type"] = self.content_type
        if self.retry_after_s is not None:
            fields["retry_after_s"] = self.retry_after_s
        return orjson.dumps(fields)

    @classmethod
    def decode(cls, payload: bytes) -> Ending:
        """Read the payload of an ``end`` event; fields that are not known are ignored."""
        header, _, body = payload.partition(b"\n")
        fields: dict[str, Any] = orjson.loads(header)
        outcome = fields["outcome"]
        return cls(
            # A later version may know more; its status and message say what matters.
            outcome=Outcome(outcome) if outcome in _OUTCOMES else Outcome.FAILED,
            status=int(fields.get("status", 200)),
            content_type=fields.get("content_type", "application/json"),
            code=fields.get("code", ""),
            message=fields.get("message", ""),
            engine=fields.get("engine", ""),
            retry_after_s=fields.get("retry_after_s"),
            body=body,
        )


def read_frames(message: bytes) -> list[Event]:
    """The events of one published message.

    Raises:
        ValueError: the message is not a run of frames.
    """
    events: list[Event] = []
    at = 0
    while at < len(message):
        line_end = message.index(b"\n", at)
        request_id, position, kind, length = message[at:line_end].decode().split(" ")
        attempt, _, sequence = position.partition("-")
        start = line_end + 1
        stop = start + int(length)
        if stop >= len(message):
            raise ValueError("the message ends inside a frame")
        events.append(Event(request_id, int(attempt), int(sequence), kind, message[start:stop]))
        at = stop + 1
    return events


def read_log_entry(request_id: str, entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    """The event that an entry of an output log holds."""
    attempt, _, sequence = entry_id.partition(b"-")
    return Event(request_id, int(attempt), int(sequence), fields[b"type"].decode(), fields[b"payload"])
