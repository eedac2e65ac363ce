"""What a worker and a scheduler read: entries of an assigned stream, and engine rows."""

from __future__ import annotations

import pytest

from sagellm_control.wire.assignment import Assignment, CancelNotice, read_assigned
from sagellm_control.wire.engine import EngineRow, read_engine_row
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import EngineState, RequestKind
from sagellm_control.wire.trace_context import TraceContext

LEAST = {
    b"id": b"r1",
    b"attempt": b"2",
    b"kind": b"chat",
    b"priority": b"1",
    b"arrived_ms": b"1000.5",
    b"assigned_ms": b"1001",
}


def test_read_assignment() -> None:
    more = {
        b"stream": b"1",
        b"timeout_at_ms": b"5000",
        b"tenant": b"t",
        b"trace": b'{"trace_id":"x"}',
        b"after": b"1-7",
        b"body": b"{}",
    }
    assert read_assigned(b"7-0", LEAST | more) == Assignment(
        entry_id="7-0",
        request_id="r1",
        attempt=2,
        kind=RequestKind.CHAT,
        priority=RequestPriority.HIGH,
        stream=True,
        arrived_ms=1000.5,
        assigned_ms=1001.0,
        timeout_at_ms=5000.0,
        tenant="t",
        trace=TraceContext("x"),
        after=(1, 7),
        body=b"{}",
    )


def test_read_the_least_assignment() -> None:
    read = read_assigned(b"7-0", LEAST)
    assert isinstance(read, Assignment)
    assert (read.stream, read.timeout_at_ms, read.tenant, read.after, read.body) == (False, 0.0, "", (0, 0), None)


def test_read_a_notice_of_cancellation() -> None:
    notice = {b"id": b"r1", b"attempt": b"2", b"cancel": b"cancelled"}
    assert read_assigned(b"8-0", notice) == CancelNotice("8-0", "r1", 2, "cancelled")


@pytest.mark.parametrize("broken", [{b"attempt": b"x"}, {b"kind": b"poem"}, {b"priority": b"9"}])
def test_an_entry_that_nobody_should_have_written(broken: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_assigned(b"7-0", LEAST | broken)
    with pytest.raises(KeyError):
        read_assigned(b"7-0", {name: value for name, value in LEAST.items() if name not in broken})


def test_an_engine_row_comes_back_as_it_was() -> None:
    row = EngineRow(
        engine_id="e1",
        pool="p",
        url="http://127.0.0.1:8000",
        kind="vllm",
        slots=8,
        prefetch=2,
        models=("p", "lora"),
        version="0.11",
        state=EngineState.READY,
        worker="w1",
        reason="",
    )
    scripts_write = {"state": "READY", "worker": "w1", "reason": ""}
    assert read_engine_row("e1", row.fields() | scripts_write) == row


def test_a_row_of_which_little_is_known_takes_nothing() -> None:
    row = read_engine_row("e1", {})
    assert (row.state, row.slots, row.models) == (EngineState.ERROR, 0, ())
    assert read_engine_row("e1", {"models": "not JSON"}).models == ()


@pytest.mark.parametrize("kinds", [(), ("chat", "completion")])
def test_the_kinds_that_an_engine_takes_are_read_back(kinds: tuple[str, ...]) -> None:
    row = EngineRow("e", "p", "", "vllm", 4, ("m",), kinds=kinds)
    assert read_engine_row("e", row.fields() | {"state": "READY"}).kinds == kinds
