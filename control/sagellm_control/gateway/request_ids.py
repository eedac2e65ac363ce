"""The ids of a request: every answer to it carries them, a refusal too, so that it can be found in logs and traces."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import web

from ..wire.request import is_request_id
from ..wire.trace_context import TraceContext
from .request_headers import TRACE_ID, trace_context

# aiohttp has keys for what is kept with a request from 3.14 on, and warns of other ones.
_KEPT: Any = web.RequestKey("request_id", str) if hasattr(web, "RequestKey") else "request_id"


def new_id() -> str:
    """One that no other request has."""
    return os.urandom(16).hex()


def name_request(request: web.Request, request_id: str) -> None:
    """From here on this is its id, whatever its client calls it."""
    request[_KEPT] = request_id


def request_id_of(request: web.Request) -> str:
    """Its id: the client's where that can be used, else one that is made up.

    Under an ``Idempotency-Key`` it is not the client's: that of the key, as soon as it is known (``name_request``).
    """
    if _KEPT not in request:
        keyed = "Idempotency-Key" in request.headers
        sent = "" if keyed else _usable(request, "X-Request-ID", is_request_id)
        name_request(request, sent or new_id())
    return request[_KEPT]


def returned_ids(request: web.Request) -> dict[str, str]:
    """The headers that say them; of what was sent only what can be used."""
    trace = trace_context(request.headers)
    if trace_id := _usable(request, "X-Trace-ID", TRACE_ID.fullmatch):
        trace = replace(trace, trace_id=trace_id)
    return write_ids(request_id_of(request), trace)


def write_ids(request_id: str, trace: TraceContext) -> dict[str, str]:
    """The same of what has been read and found usable."""
    ids = {"X-Request-ID": request_id, "X-Trace-ID": trace.trace_id or request_id}
    if trace.traceparent:
        ids["traceparent"] = trace.traceparent
    if trace.tracestate:
        ids["tracestate"] = trace.tracestate
    return ids


def _usable(request: web.Request, name: str, fits: Callable[[str], object]) -> str:
    values = set(request.headers.getall(name, ()))
    return next((value for value in values if len(values) == 1 and fits(value)), "")
