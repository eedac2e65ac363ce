"""Headers: what is read, and what is refused by name."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from sagellm_control.gateway.errors import ApiError
from sagellm_control.gateway.request_headers import (
    _OURS,  # pyright: ignore[reportPrivateUsage]
    LONGEST_MS,
    RequestHeaders,
    idempotent_id,
    read_headers,
)
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import LONGEST_SESSION, is_request_id
from sagellm_control.wire.trace_context import NO_TRACE, TraceContext

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
HEARD = partial(str, encoding="utf-8", errors="surrogateescape")
"""How aiohttp reads the bytes of a header."""
NAMES = [
    "X-SLO-TPOT-Ms",
    "X-SLO-Reject",
    "X-Session-ID",
    "X-Event-IDs",
    "X-Mid-Stream-Retry",
    "X-Request-Priority",
    "X-Request-Timeout-Ms",
    "X-SLO-Deadline-Ms",
    "X-Request-ID",
    "X-Trace-ID",
    "Idempotency-Key",
    "traceparent",
    "tracestate",
]


def _read(**headers: str) -> RequestHeaders:
    """``x_request_id="…"`` stands for X-Request-ID."""
    return _read_all({name.replace("_", "-"): value for name, value in headers.items()})


def _read_all(headers: dict[str, str]) -> RequestHeaders:
    return read_headers(CIMultiDictProxy(CIMultiDict(headers)))


def test_all_of_them_are_tried_here() -> None:
    assert {name.lower() for name in NAMES} == _OURS


def test_without_headers_everything_has_its_default() -> None:
    assert _read() == RequestHeaders(
        priority=RequestPriority.NORMAL,
        timeout_s=None,
        slo_s=None,
        request_id=None,
        idempotency_key=None,
        trace=NO_TRACE,
    )


@pytest.mark.parametrize("priority", RequestPriority)
def test_a_priority_is_read_by_name_and_by_number(priority: RequestPriority) -> None:
    for text in (priority.name, priority.label, f" {priority.name.title()} ", str(int(priority))):
        assert _read(x_request_priority=text).priority is priority


@pytest.mark.parametrize("text", ["", "urgent", "-1", "5", "0.5", "99999999999999999999", "२", "NORMAL,HIGH"])
def test_another_priority_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="CRITICAL, HIGH, NORMAL, LOW, BACKGROUND") as caught:
        _read(x_request_priority=text)
    assert (caught.value.status, caught.value.param) == (400, "X-Request-Priority")


@pytest.mark.parametrize(
    ("text", "seconds"), [("1", 0.001), ("1500", 1.5), (str(LONGEST_MS), 86_400.0), (f"{'0' * 5000}7", 0.007)]
)
def test_deadlines_are_milliseconds(text: str, seconds: float) -> None:
    headers = _read(x_request_timeout_ms=text, x_slo_deadline_ms=text)
    assert (headers.timeout_s, headers.slo_s) == (seconds, seconds)


@pytest.mark.parametrize("name", ["X-Request-Timeout-Ms", "X-SLO-Deadline-Ms"])
@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-1", "+1", "1.0", "1e3", "1 000", "soon", "١", str(LONGEST_MS + 1), "9" * 5000),
        *("0" * 5000, "0000000000019999999999999", f"{1:012}{'9' * 400}", f"{1:012}{'9' * 5000}"),
    ],
)
def test_another_deadline_is_refused(name: str, text: str) -> None:
    with pytest.raises(ApiError, match=f"from 1 to {LONGEST_MS}") as caught:
        _read_all({name: text})
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize("name", ["X-SLO-Reject", "X-Event-IDs"])
def test_flags(name: str) -> None:
    def flag(text: str) -> bool:
        read = _read_all({name: text})
        return read.reject_late if name == "X-SLO-Reject" else read.event_ids

    assert [flag(text) for text in ("true", "True", "1", "false", "0")] == [True, True, True, False, False]
    for text in ("", "yes", "2"):
        with pytest.raises(ApiError, match=f"{name} must be true or false"):
            flag(text)


@pytest.mark.parametrize(
    "name",
    [
        "X-Request-Priority",
        "X-Request-Timeout-Ms",
        "X-SLO-Deadline-Ms",
        "X-SLO-TPOT-Ms",
        "X-Request-ID",
        "Idempotency-Key",
    ],
)
def test_a_header_that_says_two_things_is_refused(name: str) -> None:
    def read(*values: str) -> RequestHeaders:
        return read_headers(CIMultiDictProxy(CIMultiDict([(name, value) for value in values])))

    # A proxy may have repeated it.
    assert read("4", "4") == read("4")
    with pytest.raises(ApiError, match=f"{name} was sent more than once") as caught:
        read("4", "3")
    assert (caught.value.status, caught.value.param) == (400, name)


def test_a_session_has_a_longest_name() -> None:
    assert _read(x_session_id="s" * LONGEST_SESSION).session == "s" * LONGEST_SESSION
    for text in ("s" * (LONGEST_SESSION + 1), "a b", "é"):
        with pytest.raises(ApiError, match=f"X-Session-ID must be 1 to {LONGEST_SESSION} printable") as caught:
            _read(x_session_id=text)
        assert (caught.value.status, caught.value.param) == (400, "X-Session-ID")


def test_traceparent_gives_the_trace_id() -> None:
    headers = _read(traceparent=f" {TRACEPARENT} ")
    assert headers.trace == TraceContext(TRACE_ID, TRACEPARENT)


@pytest.mark.parametrize("later", [f"01{TRACEPARENT[2:]}", f"cc{TRACEPARENT[2:]}-what-will-be"])
def test_of_a_later_version_of_traceparent_what_is_known_is_handed_on(later: str) -> None:
    assert _read(traceparent=later).trace == TraceContext(TRACE_ID, TRACEPARENT)


def test_a_trace_id_goes_before_that_of_traceparent() -> None:
    headers = _read(traceparent=TRACEPARENT, x_trace_id="mine")
    assert headers.trace == TraceContext("mine", TRACEPARENT)


@pytest.mark.parametrize("text", ["", "00", TRACEPARENT.upper(), TRACEPARENT[:-1], f"{TRACEPARENT}-x", "a" * 10_000])
def test_a_malformed_traceparent_is_ignored(text: str) -> None:
    headers = _read(traceparent=text)
    assert headers.trace == NO_TRACE


@pytest.mark.parametrize(
    "zero", [f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{TRACE_ID}-{'0' * 16}-01", f"ff{TRACEPARENT[2:]}"]
)
def test_a_traceparent_that_w3c_calls_invalid_is_ignored(zero: str) -> None:
    assert _read(traceparent=zero).trace == NO_TRACE


def test_tracestate_is_read_with_a_traceparent_alone() -> None:
    assert _read(traceparent=TRACEPARENT, tracestate="a=1").trace.tracestate == "a=1"
    assert _read(traceparent="00", tracestate="a=1") == RequestHeaders()
    assert _read(tracestate="a=1") == RequestHeaders()


def test_several_traceparents_are_none() -> None:
    other = TRACEPARENT.replace("-01", "-00")
    sent = [("traceparent", TRACEPARENT), ("traceparent", other), ("tracestate", "a=1")]
    assert read_headers(CIMultiDictProxy(CIMultiDict(sent))).trace == NO_TRACE
    sent[1] = sent[0]
    assert read_headers(CIMultiDictProxy(CIMultiDict(sent))).trace.tracestate == "a=1"


def test_several_tracestates_are_one_list() -> None:
    sent = [("traceparent", TRACEPARENT), ("tracestate", "a=1 ,b=2"), ("tracestate", "c=3")]
    assert read_headers(CIMultiDictProxy(CIMultiDict(sent))).trace.tracestate == "a=1,b=2,c=3"


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=80) | st.binary(max_size=80).map(HEARD)))
def test_whatever_comes_is_read_or_refused_by_name(headers: dict[str, str]) -> None:
    read = _outcome(headers)
    if isinstance(read, ApiError):
        assert read.status == 400
        assert read.param in headers
        assert str(read.param) in read.message
    else:
        assert read.request_id is None or is_request_id(read.request_id)
        assert read.trace.trace_id.isprintable()


def _outcome(headers: dict[str, str]) -> RequestHeaders | ApiError:
    try:
        return _read_all(headers)
    except ApiError as error:
        return error


@given(st.text(max_size=70), st.binary(min_size=1, max_size=260).map(HEARD))
def test_an_idempotent_id_may_be_a_request_id(tenant: str, key: str) -> None:
    assert is_request_id(idempotent_id(tenant, key))


def test_tenant_and_key_are_not_confused() -> None:
    pairs = (("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", ""), ("a", "bd"), ("a", HEARD(b"b\xff")))
    ids = {idempotent_id(*pair) for pair in pairs}
    assert len(ids) == len(pairs)
    assert idempotent_id("a", "bc") == idempotent_id("a", "bc")


@pytest.mark.parametrize("name", sorted({*NAMES} - {"tracestate"}))
def test_each_is_read_where_it_is_the_only_one(name: str) -> None:
    numbers = {"X-Request-Timeout-Ms", "X-SLO-Deadline-Ms", "X-SLO-TPOT-Ms"}
    values = dict.fromkeys(numbers, "5") | {
        "X-SLO-Reject": "true",
        "X-Event-IDs": "true",
        "X-Mid-Stream-Retry": "never",
        "X-Request-Priority": "LOW",
        "traceparent": TRACEPARENT,
    }
    assert _read_all({name: values.get(name, "a")}) != RequestHeaders()
