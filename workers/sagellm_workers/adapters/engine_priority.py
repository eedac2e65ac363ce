"""Passes a request's class on to engines that know priorities.

vLLM (`--scheduling-policy priority`): the lower number first; under its default policy the field is ignored by the V1
engine, and anything but 0 was refused by the old one. SGLang (`--enable-priority-scheduling`): the higher number first,
unless `--schedule-low-priority-values-first`; both flags stand in its /server_info. NORMAL is 0 to either, their
default, so the body of a normal request stays as it is.
"""

from __future__ import annotations

NORMAL = 2  # the class that is 0 to an engine
LOW_FIRST, HIGH_FIRST = "low_first", "high_first"


def with_priority(body: bytes, priority: int, order: str) -> bytes:
    """The body with the field `priority`, all else byte for byte as it was; unchanged if the client set one itself.

    `priority`: 0 = CRITICAL … 4 = BACKGROUND. `order`: which numbers the engine takes for urgent; "": it knows none.
    """
    number = priority - NORMAL if order == LOW_FIRST else NORMAL - priority
    if not order or number == 0 or b'"priority"' in body:
        return body
    start = body.find(b"{") + 1
    return b'%s"priority":%d,%s' % (body[:start], number, body[start:])
