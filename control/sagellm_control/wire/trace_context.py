"""Which trace a request belongs to, as its client says: a trace id, and W3C's trace context
(https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import orjson

MOST_STATE = 512
"""Characters of a ``tracestate`` that are passed on."""
MOST_MEMBERS = 32
LONG_MEMBER = 128
"""Characters; longer ones are the first to go where it is too much."""

# Version ff and ids of zeros are invalid. Later versions than 00 may have more fields.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})(-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?")
_REST = "[a-z0-9_*/-]"
_KEY = rf"(?:[a-z]{_REST}{{0,255}}|[a-z0-9]{_REST}{{0,240}}@[a-z]{_REST}{{0,13}})"
_MEMBER = re.compile(_KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


@dataclass(slots=True, frozen=True)
class TraceContext:
    """All of it. The queue only passes it through, from the gateway to the engine, as one text: what is to travel this
    way from now on is a field here, read where requests come in and sent where engines are called."""

    trace_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    """Only with a ``traceparent``."""

    def encode(self) -> bytes:
        """A JSON object of the fields that are not empty; empty where all are."""
        told = {name: text for name in self.__slots__ if (text := getattr(self, name))}
        return orjson.dumps(told) if told else b""

    @classmethod
    def decode(cls, text: bytes | str) -> TraceContext:
        """Read what ``encode`` wrote. What is no such text is none: no request fails for it."""
        try:
            told: object = orjson.loads(text) if text else {}
        except orjson.JSONDecodeError:
            return NO_TRACE
        if not isinstance(told, dict):
            return NO_TRACE
        fields = cast("dict[str, object]", told)
        known = {name: value for name in cls.__slots__ if isinstance(value := fields.get(name), str)}
        return cls(**known) if known else NO_TRACE


NO_TRACE = TraceContext()


def read_traceparent(text: str) -> tuple[str, str]:
    """``traceparent``, as version 00 has it, and the trace id in it; both empty where it is malformed, as such a one is
    to be ignored. Of later versions the fields of that one count, and are handed on under it, as W3C asks."""
    match = _TRACEPARENT.fullmatch(text.strip())
    if match is None or (match[1] == "00" and match[4]):
        return "", ""
    return f"00{match[2]}", match[3]


def read_tracestate(texts: Iterable[str]) -> str:
    """The list that these headers make together, whole members of it up to 512 characters; empty where it is malformed,
    as such a one is to be ignored."""
    members = [member for text in texts for part in text.split(",") if (member := part.strip(" \t"))]
    if len(members) > MOST_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return ""
    # The last ones are the oldest.
    for least in (LONG_MEMBER + 1, 0):
        for number in reversed(range(len(members))):
            if len(",".join(members)) <= MOST_STATE:
                break
            if len(members[number]) >= least:
                del members[number]
    return ",".join(members)
