"""What may be a request id, and how an arrival is read from fields that anybody may have written."""

from __future__ import annotations

import pytest

from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival, BadEntry, is_request_id, read_arrival

from ..pool_driver import new_request

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
