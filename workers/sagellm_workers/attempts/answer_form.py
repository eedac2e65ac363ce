"""Whether what an engine says with a good status has the form of an answer. What it means is the client's to judge."""

from __future__ import annotations

import re

from sagellm_control.wire.states import RequestKind

from ..adapters.base import EngineBroken, EngineFailed
from ..adapters.loose_json import mapping, parsed
from ..adapters.sse import BYTE_ORDER_MARK, data_of
from ..adapters.stream_end import DONE
from ..adapters.told_error import told_error

MOST_PARSED_BYTES = 1 << 18
"""Of a body. Of a longer one, vectors most likely, only both ends are looked at: to parse a megabyte of numbers takes
milliseconds, in which nobody else's token moves."""
_SHOWN_BYTES = 40
_CLOSING = b"data: [DONE]\n\n"
_EVENT_END = re.compile(rb"(?<=\n\n)|(?<=\n\r\n)")
_FIELD = re.compile(rb"[\w-]*:|(?:data|event|id|retry)$")
"""How a line of a stream begins: a comment, or a name and a value; also a name that only some engines know."""


class StreamForm:
    """The events of one stream: each piece of data is JSON, or ``[DONE]``.

    The first is parsed: an engine that answers garbage does so from its first event on. Of later ones, the usual form
    of a line, from its first brace to its last, is enough: half of one does not have it. What is of another form is
    parsed.
    """

    def __init__(self, engine_id: str) -> None:
        self._engine_id = engine_id
        self._begun = False
        self.failure: EngineFailed | None = None
        """What the engine has told of its failure; nothing behind it is for the client."""

    def check(self, events: bytes) -> bytes:
        """Whole events came; those of them that are for the client.

        Raises:
            EngineBroken: they are garbage; none of them is for the client.
        """
        if not _look_usual(events):
            self._read(events)
        elif not self._begun:
            self._read(events[: events.index(b"\n\n") + 2])
        return self._before_failure(events) if b'"error"' in events else events

    def check_end(self, *, gone_on: bool) -> None:
        """The stream is over.

        Args:
            gone_on: it is the rest of another one, which may have been complete.

        Raises:
            EngineBroken: nothing was in it.
        """
        if not self._begun and not gone_on:
            raise EngineBroken(f"engine {self._engine_id} answered with a stream without an event")

    def _read(self, events: bytes) -> None:
        for line in events.removeprefix(BYTE_ORDER_MARK).splitlines():
            if line and not _FIELD.match(line):
                raise self._garbage(line)
        for data in data_of(events):
            if not data.strip():
                continue  # clients drop such an event: some engines keep a connection alive with it
            if data.strip() != DONE:
                try:
                    parsed(data)
                except ValueError:
                    raise self._garbage(data) from None
            self._begun = True

    def _before_failure(self, events: bytes) -> bytes:
        end = 0
        for event in _EVENT_END.split(events):
            for data in data_of(event):
                if (told := told_error(data)) is not None and not told.refuses:
                    self.failure = EngineFailed(f"engine {self._engine_id} failed: {told.message}", data)
                    return events[:end]
            end += len(event)
        return events

    def _garbage(self, found: bytes) -> EngineBroken:
        return EngineBroken(f"engine {self._engine_id} streams what is no JSON: {found[:_SHOWN_BYTES]!r}")


def check_body(body: bytes, engine_id: str, kind: RequestKind, content_type: str) -> None:
    """Check an answer that is no stream: all of OpenAI's are objects, and an error is none of them.

    Raises:
        EngineBroken: it is none.
        EngineFailed: it tells of a failure of the engine, and of nothing else.
    """
    if kind is RequestKind.EMBEDDING and _says_binary(content_type):
        return  # vectors as plain numbers, which vLLM gives who asks for them
    if not _is_object(body):
        said = f"as {content_type[:_SHOWN_BYTES]!r}" if content_type else "without a Content-Type"
        raise EngineBroken(f"engine {engine_id} answered with what is no JSON object, {said}: {body[:_SHOWN_BYTES]!r}")
    if len(body) <= MOST_PARSED_BYTES and (told := told_error(body)) is not None:
        answers = mapping(parsed(body))
        if not (told.refuses or answers.get("choices") or answers.get("data")):
            raise EngineFailed(f"engine {engine_id} failed: {told.message}", body)


def _look_usual(events: bytes) -> bool:
    """One event or more, each in one line, an object; behind them the closing event or not."""
    events = events.removesuffix(_CLOSING)
    if not (events.startswith(b"data: {") and events.endswith(b"}\n\n")):
        return False
    lines = events.count(b"\n")
    return lines == 2 or lines == 2 * events.count(b"}\n\ndata: {") + 2


def _is_object(body: bytes) -> bool:
    if len(body) > MOST_PARSED_BYTES:
        return body.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"{" and body.rstrip()[-1:] == b"}"
    try:
        return isinstance(parsed(body), dict)
    except ValueError:
        return False


def _says_binary(content_type: str) -> bool:
    said = content_type.partition(";")[0].strip().lower()
    return said != "" and "json" not in said and not said.startswith("text/")
