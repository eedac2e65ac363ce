"""The ids under which engines get attempts."""

from __future__ import annotations

import pytest

from sagellm_control.wire.attempts import ATTEMPTS_APART, id_of_attempt
from sagellm_control.wire.request import MAX_ID_LENGTH, is_request_id

LONGEST = "x" * MAX_ID_LENGTH


def test_the_first_has_the_requests_own() -> None:
    assert id_of_attempt("job-1", 1) == "job-1"
    assert id_of_attempt(LONGEST, 1) == LONGEST


def test_a_later_one_says_which_it_is() -> None:
    assert id_of_attempt("job-1", 2) == "job-1~2"
    assert id_of_attempt("job-1", ATTEMPTS_APART + 1) == "job-1~1001", "it was submitted again"


def test_no_request_can_have_the_id_of_anothers_attempt() -> None:
    assert id_of_attempt("job~2", 1) == "job~2~1"
    assert id_of_attempt("job~2", 2) == "job~2~2"
    assert id_of_attempt("job~x", 1) == "job~x"
    longest = id_of_attempt(f"{LONGEST[:-2]}~2", 1)
    assert is_request_id(longest)
    assert longest.endswith("~1")


@pytest.mark.parametrize("attempt", [2, 10, 99_001])
@pytest.mark.parametrize("length", [MAX_ID_LENGTH - 3, MAX_ID_LENGTH - 1, MAX_ID_LENGTH])
def test_it_is_no_longer_than_ids_may_be(length: int, attempt: int) -> None:
    made = id_of_attempt(LONGEST[:length], attempt)
    assert is_request_id(made)
    assert made.startswith(LONGEST[:40])
    assert made.endswith(f"~{attempt}")


def test_long_ids_that_differ_at_their_ends_stay_apart() -> None:
    assert id_of_attempt(LONGEST[:-1] + "a", 2) != id_of_attempt(LONGEST[:-1] + "b", 2)
