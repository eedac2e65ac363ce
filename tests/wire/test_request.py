"""What may be a request id, and how an arrival is read from fields that anybody may have written."""

from __future__ import annotations

from dataclasses import fields as fields_of
from typing import Any

import pytest

from sagellm_control.wire.assignment import Assignment, read_assigned
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival, BadEntry, NewRequest, is_request_id, read_arrival

from ..pool_driver import PoolDriver, new_request
from ..request_fields import EVERY_FIELD, recorded_as

GOOD = {"priority": "2", "arrived_ms": "1700000000000.125"}


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("a", True),
        ("A-Z.a_z~0=9+@", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a:body", False),
        ("a b", False),
        ("a\n", False),
        ("a{b}", False),
        ("é", False),
        ("*", False),
    ],
)
def test_request_id(text: str, allowed: bool) -> None:
    assert is_request_id(text) is allowed


def test_read_arrival() -> None:
    fields = GOOD | {
        "tenant": "t",
        "model": "m",
        "slo_ms": "500",
        "timeout_ms": "9000",
        "prompt_tokens": "12",
        "max_tokens": "34",
        "excluded": "e1 e2",
        "excluded_ms": "1700000000500.250",
        "of another version": "is ignored",
    }
    assert read_arrival("r", fields) == Arrival(
        id="r",
        priority=RequestPriority.NORMAL,
        arrived_ms=1700000000000.125,
        tenant="t",
        model="m",
        slo_ms=500,
        timeout_ms=9000,
        prompt_tokens=12,
        max_tokens=34,
        excluded=("e1", "e2"),
        excluded_ms=1700000000500.25,
    )


def test_read_arrival_without_what_is_optional() -> None:
    assert read_arrival("r", GOOD) == Arrival("r", RequestPriority.NORMAL, 1700000000000.125)
    assert read_arrival("r", GOOD | {"slo_ms": "", "tenant": "", "excluded": ""}) == read_arrival("r", GOOD)


# Numbers that Python reads in its own way, or refuses to read at all.
LONG = "9" * 5000


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("priority", None),
        ("priority", ""),
        ("priority", "urgent"),
        ("priority", "5"),
        ("priority", "-1"),
        ("priority", "1.0"),
        ("priority", LONG),
        ("arrived_ms", None),
        ("arrived_ms", ""),
        ("arrived_ms", "yesterday"),
        ("arrived_ms", "nan"),
        ("arrived_ms", "inf"),
        ("arrived_ms", "-inf"),
        ("arrived_ms", "1e400"),
        ("slo_ms", "-5"),
        ("slo_ms", "1.5"),
        ("timeout_ms", "{}"),
        ("timeout_ms", LONG),
        ("prompt_tokens", "many"),
        ("max_tokens", "0x10"),
    ],
)
def test_a_field_that_cannot_be_read_is_named(field: str, text: str | None) -> None:
    fields = {name: value for name, value in (GOOD | {field: text}).items() if value is not None}
    with pytest.raises(BadEntry, match=field) as raised:
        read_arrival("r", fields)
    assert len(str(raised.value)) < 200


def test_fingerprint_tells_bodies_apart() -> None:
    one = new_request("r", "p", body=b"{}")
    assert one.fingerprint == new_request("other", "p", body=b"{}", tenant="t").fingerprint
    assert one.fingerprint != new_request("r", "p", body=b"{ }").fingerprint


NOT_SCHEDULED = {"pool", "body", "inbox", "ticket", "stream", "trace", "attempt", "continuable", "orphan_grace_ms"}


@pytest.mark.parametrize(
    "given", [{}, EVERY_FIELD, *({name: value} for name, value in EVERY_FIELD.items())], ids=",".join
)
async def test_an_arrival_is_what_a_scheduler_reads_of_the_request(pool: PoolDriver, given: dict[str, Any]) -> None:
    await pool.accept("r", **given)
    (entry,) = (await pool.take()).arrivals
    read = read_arrival("r", entry.fields)
    assert new_request("r", pool.name, **given).arrival(pool.clock.now_ms) == read
    # What is scheduled by is seen in it.
    for name in given.keys() - NOT_SCHEDULED:
        assert getattr(read, name) == given[name], name


async def test_a_record_has_each_field_of_the_request(pool: PoolDriver) -> None:
    await pool.accept("r", **EVERY_FIELD)
    record = await pool.record("r")
    assert [name for name in EVERY_FIELD if recorded_as(name) not in record] == []


async def test_a_worker_reads_what_was_sent(pool: PoolDriver) -> None:
    await pool.engine()
    sent = new_request("r", pool.name, **EVERY_FIELD)
    await pool.accept("r", **EVERY_FIELD)
    (arrival,) = (await pool.take()).arrivals
    await pool.admit(pool.admission(arrival, engine="e1"))
    ((entry_id, fields),) = await pool.store.commands.xrange(pool.keys.assigned("e1"))
    read = read_assigned(entry_id, fields)
    same = {field.name for field in fields_of(Assignment)} & {field.name for field in fields_of(NewRequest)}
    same -= {"attempt"}  # this one's number is the next
    assert {"tenant", "trace", "body"} <= same
    assert {name: getattr(read, name) for name in same} == {name: getattr(sent, name) for name in same}


def test_each_field_of_a_request_is_in_its_arrival_or_of_no_concern_to_a_scheduler() -> None:
    of_requests = {field.name for field in fields_of(NewRequest)}
    assert EVERY_FIELD.keys() | NOT_SCHEDULED | {"id"} == of_requests, "another field: what is it in an arrival?"
    of_arrivals = {field.name for field in fields_of(Arrival)}
    assert of_requests - NOT_SCHEDULED == of_arrivals - {"arrived_ms", "excluded", "excluded_ms"}
    plain = new_request("r", "p")
    assert not [name for name, value in EVERY_FIELD.items() if value == getattr(plain, name)]
