"""What a client says in headers: urgency, deadlines, ids."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from multidict import CIMultiDictProxy

from ..wire.priority import RequestPriority
from ..wire.request import LONGEST_SESSION, MAX_ID_LENGTH, is_request_id
from ..wire.trace_context import NO_TRACE, TraceContext, read_traceparent, read_tracestate
from .errors import bad_request

LONGEST_MS = 86_400_000
"""A day: the longest deadline that may be asked for."""

# No more digits than may be right: int() fails at thousands of them.
_MILLISECONDS = re.compile(r"0*([1-9][0-9]{0,7})")
_SESSION = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_SESSION}}}")
TRACE_ID = re.compile(r"[\x21-\x7e]{1,64}")


_OURS = frozenset(
    (
        "x-request-priority",
        "x-request-id",
        "idempotency-key",
        "traceparent",
        "tracestate",
        "x-trace-id",
        "x-session-id",
        "x-request-timeout-ms",
        "x-slo-deadline-ms",
        "x-slo-tpot-ms",
        "x-slo-reject",
        "x-mid-stream-retry",
        "x-event-ids",
    )
)
"""All that are read here."""


@dataclass(slots=True, frozen=True)
class RequestHeaders:
    """The headers that the control plane reads."""

    priority: RequestPriority = RequestPriority.NORMAL
    timeout_s: float | None = None
    slo_s: float | None = None
    request_id: str | None = None
    idempotency_key: str | None = None
    trace: TraceContext = NO_TRACE
    mid_stream_retry: bool = True
    """Whether another engine may go on with its stream, should its own be lost."""
    event_ids: bool = False
    """Whether the client wants its events numbered, so that it can come back for the rest."""
    tpot_slo_s: float | None = None
    reject_late: bool = False
    session: str = ""


_NONE_OF_OURS = RequestHeaders()


def read_headers(headers: CIMultiDictProxy[str]) -> RequestHeaders:
    """Read and check them.

    Raises:
        ApiError: 400, names the header and what is allowed.
    """
    if _OURS.isdisjoint(map(str.lower, headers)):
        return _NONE_OF_OURS  # as most clients; each look-up below costs as much as this
    priority = RequestPriority.NORMAL
    if (text := value_of(headers, "X-Request-Priority")) is not None:
        try:
            priority = RequestPriority.parse(text)
        except ValueError as error:
            raise bad_request(f"X-Request-Priority: {error}.", "X-Request-Priority") from None
    request_id = value_of(headers, "X-Request-ID")
    if request_id is not None and not is_request_id(request_id):
        raise bad_request(f"X-Request-ID must be 1 to {MAX_ID_LENGTH} letters, digits or ._~@=+-", "X-Request-ID")
    idempotency_key = value_of(headers, "Idempotency-Key")
    if idempotency_key is not None and not 1 <= len(idempotency_key) <= 255:
        raise bad_request("Idempotency-Key must have 1 to 255 characters.", "Idempotency-Key")
    trace = trace_context(headers)
    trace_id = value_of(headers, "X-Trace-ID")
    if trace_id is not None:
        if not TRACE_ID.fullmatch(trace_id):
            raise bad_request("X-Trace-ID must be 1 to 64 printable characters without spaces.", "X-Trace-ID")
        trace = replace(trace, trace_id=trace_id)
    session = value_of(headers, "X-Session-ID") or ""
    if session and not _SESSION.fullmatch(session):
        message = f"X-Session-ID must be 1 to {LONGEST_SESSION} printable characters without spaces."
        raise bad_request(message, "X-Session-ID")
    return RequestHeaders(
        priority=priority,
        timeout_s=_seconds(headers, "X-Request-Timeout-Ms"),
        slo_s=_seconds(headers, "X-SLO-Deadline-Ms"),
        tpot_slo_s=_seconds(headers, "X-SLO-TPOT-Ms"),
        reject_late=_flag(headers, "X-SLO-Reject"),
        session=session,
        request_id=request_id,
        idempotency_key=idempotency_key,
        trace=trace,
        mid_stream_retry=_mid_stream_retry(headers),
        event_ids=_flag(headers, "X-Event-IDs"),
    )


def trace_context(headers: CIMultiDictProxy[str]) -> TraceContext:
    """W3C's, and the trace id in it; what is malformed is to be ignored, says W3C."""
    sent = set(headers.getall("traceparent", ()))
    traceparent, trace_id = read_traceparent(sent.pop()) if len(sent) == 1 else ("", "")
    if not traceparent:
        return NO_TRACE
    return TraceContext(trace_id, traceparent, read_tracestate(headers.getall("tracestate", ())))


def value_of(headers: CIMultiDictProxy[str], name: str) -> str | None:
    """What was sent under a name; None: nothing.

    Raises:
        ApiError: 400, different values were.
    """
    values = headers.getall(name, None)
    if values is None:
        return None
    if len(values) > 1 and len(set(values)) > 1:
        raise bad_request(f"{name} was sent more than once, with different values.", name)
    return values[0]


def _flag(headers: CIMultiDictProxy[str], name: str) -> bool:
    text = value_of(headers, name)
    if text is not None and text.strip().lower() not in ("true", "false", "1", "0"):
        raise bad_request(f"{name} must be true or false.", name)
    return text is not None and text.strip().lower() in ("true", "1")


def idempotent_id(tenant: str, key: str) -> str:
    """The request id that stands for a tenant's idempotency key."""
    # The bytes that were sent, whether or not they are UTF-8.
    said = f"{tenant}\0{key}".encode(errors="surrogateescape")
    return "idem-" + hashlib.blake2b(said, digest_size=20).hexdigest()


def _mid_stream_retry(headers: CIMultiDictProxy[str]) -> bool:
    text = value_of(headers, "X-Mid-Stream-Retry")
    if text is not None and text.strip().lower() not in ("auto", "never"):
        raise bad_request("X-Mid-Stream-Retry must be auto or never.", "X-Mid-Stream-Retry")
    return text is None or text.strip().lower() == "auto"


def _seconds(headers: CIMultiDictProxy[str], name: str) -> float | None:
    text = value_of(headers, name)
    if text is None:
        return None
    match = _MILLISECONDS.fullmatch(text)
    if match is None or int(match[1]) > LONGEST_MS:
        raise bad_request(f"{name} must be a whole number of milliseconds from 1 to {LONGEST_MS}.", name)
    return int(match[1]) / 1000
