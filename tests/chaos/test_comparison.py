"""The comparison finds every token that is missing, doubled, misplaced or wrong, and nothing in what is right."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.chaos.comparison import Flaw, compare
from sagellm_control.simulated_engine.answers import answer_tokens

ANSWER = answer_tokens("a question", 40)


def swapped(tokens: list[str], at: int) -> list[str]:
    return [*tokens[:at], tokens[at + 1], tokens[at], *tokens[at + 2 :]]


def test_what_is_right_has_no_flaw() -> None:
    assert compare(ANSWER, ANSWER, whole=True) == {}
    assert compare(ANSWER, ANSWER[:17], whole=False) == {}
    assert compare(ANSWER, [], whole=False) == {}


@pytest.mark.parametrize(
    ("came", "flaws"),
    [
        (ANSWER[:10] + ANSWER[9:], {Flaw.DOUBLED: 1}),
        (ANSWER[:10] + ANSWER[5:], {Flaw.DOUBLED: 5}),
        (ANSWER + ANSWER[-1:], {Flaw.DOUBLED: 1}),
        (ANSWER + ANSWER, {Flaw.DOUBLED: 40}),
        (ANSWER[:10] + ANSWER[11:], {Flaw.MISSING: 1}),
        (ANSWER[:10] + ANSWER[20:], {Flaw.MISSING: 10}),
        (ANSWER[1:], {Flaw.MISSING: 1}),
        (ANSWER[:-3], {Flaw.MISSING: 3}),
        ([], {Flaw.MISSING: 40}),
        (swapped(ANSWER, 10), {Flaw.MISPLACED: 2}),
        ([*ANSWER[:10], " zebra", *ANSWER[11:]], {Flaw.WRONG: 1}),
        ([*ANSWER, " zebra"], {Flaw.WRONG: 1}),
    ],
)
def test_each_flaw_has_its_name(came: list[str], flaws: dict[Flaw, int]) -> None:
    assert compare(ANSWER, came, whole=True) == Counter(flaws)


def test_a_missing_tail_is_no_flaw_of_what_need_not_be_whole_but_a_hole_is() -> None:
    assert compare(ANSWER, ANSWER[:-3], whole=False) == {}
    assert compare(ANSWER, ANSWER[:10] + ANSWER[12:30], whole=False) == Counter({Flaw.MISSING: 2})


def test_the_answer_to_another_question_is_wrong() -> None:
    assert sum(compare(ANSWER, answer_tokens("another question", 40), whole=True).values()) > 0


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8), st.booleans())
def test_it_is_silent_exactly_about_what_is_right(expected: list[str], came: list[str], whole: bool) -> None:
    right = came == expected if whole else came == expected[: len(came)]
    assert (compare(expected, came, whole=whole) == {}) == right
