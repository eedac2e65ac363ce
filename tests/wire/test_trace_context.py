"""W3C's trace context: what of a ``tracestate`` is passed on, and how it travels."""

from __future__ import annotations

import pytest

from sagellm_control.wire.trace_context import NO_TRACE, TraceContext, read_tracestate

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LONGEST_VALUE = "v" * 256


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1", "b=2,c=3"], "a=1,b=2,c=3"),
        ([" a=1 \t,, b= 2 3 ,"], "a=1,b= 2 3"),
        (["fw529a3039@dt=FfeM,0tenant@sys=1,a_-*/9=!~"], "fw529a3039@dt=FfeM,0tenant@sys=1,a_-*/9=!~"),
        ([f"{'k' * 256}=1"], f"{'k' * 256}=1"),
        ([f"{'t' * 241}@{'s' * 14}=1"], f"{'t' * 241}@{'s' * 14}=1"),
        ([f"a={LONGEST_VALUE}"], f"a={LONGEST_VALUE}"),
        ([",".join(f"k{n}=v" for n in range(32))], ",".join(f"k{n}=v" for n in range(32))),
        (["", ",", " , "], ""),
        ([], ""),
    ],
)
def test_a_list_is_passed_on_as_it_is(sent: list[str], read: str) -> None:
    assert read_tracestate(sent) == read


@pytest.mark.parametrize(
    "member",
    [
        *("a", "a=", "=1", "A=1", "a.b=1", "a =1", "9a=1", "a=1=2", "a=é", "a=1\n", "a=\udcff", "a=b\x00"),
        *("a@=1", "@a=1", "a@@b=1", "a@b@c=1", "a@9=1"),
        *(f"{'k' * 257}=1", f"{'t' * 242}@s=1", f"t@{'s' * 15}=1", f"a={LONGEST_VALUE}v"),
        ",".join(f"k{n}=v" for n in range(33)),
    ],
)
def test_one_with_a_malformed_member_is_ignored(member: str) -> None:
    assert read_tracestate(["good=1", member]) == ""


def test_of_more_than_512_characters_whole_members_remain() -> None:
    members = [f"k{n}={'v' * 96}" for n in range(6)]
    assert read_tracestate([",".join(members)]) == ",".join(members[:5])


def test_the_longest_go_first_the_oldest_of_them_before_the_others() -> None:
    long = [f"long{n}={'v' * 150}" for n in range(4)]
    sent = [long[0], "a=1", long[1], "b=2", long[2], long[3]]
    assert read_tracestate([",".join(sent)]) == ",".join([long[0], "a=1", long[1], "b=2", long[2]])


@pytest.mark.parametrize(
    "trace",
    [
        NO_TRACE,
        TraceContext("t"),
        TraceContext(traceparent=TRACEPARENT),
        TraceContext('a "b"\n', TRACEPARENT, "a=1 2,b=3"),
    ],
)
def test_it_travels_as_one_text(trace: TraceContext) -> None:
    assert TraceContext.decode(trace.encode()) == trace
    assert TraceContext.decode(trace.encode().decode()) == trace
    assert (trace.encode() == b"") == (trace == NO_TRACE)


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'"t"', b"\xff", b'{"trace_id": 1, "traceparent": null}', b'{"baggage": "x"}']
)
def test_what_is_none_is_none(text: bytes) -> None:
    """Another version may know more of it, and somebody may have written into the record."""
    assert TraceContext.decode(text) == NO_TRACE
