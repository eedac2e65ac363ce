"""W3C's trace context (https://www.w3.org/TR/trace-context/): which trace a request belongs to, as its client says.

Inside it is one text, ``TRACEPARENT`` or ``TRACEPARENT TRACESTATE``: a field of its own would cost also those requests
that have no ``tracestate``, as are most.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_STATE = 512
"""Characters of a ``tracestate`` that are passed on."""
MOST_MEMBERS = 32
LONG_MEMBER = 128
"""Characters; longer ones are the first to go where it is too much."""

# Version ff and ids of zeros are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_REST = "[a-z0-9_*/-]"
_KEY = rf"(?:[a-z]{_REST}{{0,255}}|[a-z0-9]{_REST}{{0,240}}@[a-z]{_REST}{{0,13}})"
_MEMBER = re.compile(_KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


def read_traceparent(text: str) -> tuple[str, str]:
    """``traceparent`` and the trace id in it; both empty where it is malformed, as such a one is to be ignored."""
    match = _TRACEPARENT.fullmatch(text.strip())
    return (match[0], match[1]) if match else ("", "")


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


def join_context(traceparent: str, tracestate: str) -> str:
    """Both as one text."""
    return f"{traceparent} {tracestate}" if traceparent and tracestate else traceparent


def split_context(text: str) -> tuple[str, str]:
    """``traceparent`` and ``tracestate`` of such a text."""
    traceparent, _, tracestate = text.partition(" ")
    return traceparent, tracestate
