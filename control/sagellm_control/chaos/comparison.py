"""Compares the tokens that came with those that were expected, and names what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

RUN = 4
"""So many tokens in a row say where in the answer they belong; a single word may stand in it several times."""


class Flaw(StrEnum):
    """What can be wrong with an answer."""

    MISSING = "missing"
    DOUBLED = "doubled"
    MISPLACED = "misplaced"
    """Two tokens have changed places."""
    WRONG = "wrong"
    """It belongs to no place of this answer."""


def compare(expected: Sequence[str], came: Sequence[str], *, whole: bool) -> Counter[Flaw]:
    """Count the tokens at fault. Empty exactly if ``came`` is ``expected``, or begins it where it need not be whole."""
    flaws: Counter[Flaw] = Counter()
    at = 0
    position = 0
    while position < len(came):
        if at < len(expected) and came[position] == expected[at]:
            at += 1
            position += 1
            continue
        pair = came[position : position + 2]
        if len(pair) == 2 and pair[::-1] == expected[at : at + 2]:
            flaws[Flaw.MISPLACED] += 2
            at += 2
            position += 2
            continue
        belongs = _find(expected, came[position : position + RUN], at)
        if belongs is None:
            flaws[Flaw.WRONG] += 1
            at += 1
            position += 1
        elif belongs < at:
            again = _agree(expected[belongs:at], came[position:])
            flaws[Flaw.DOUBLED] += again
            position += again
        else:
            flaws[Flaw.MISSING] += belongs - at
            at = belongs
    if whole and at < len(expected):
        flaws[Flaw.MISSING] += len(expected) - at
    return flaws


def _find(expected: Sequence[str], run: Sequence[str], near: int) -> int | None:
    """Where the run stands in the answer, the place nearest to ``near`` if there are several."""
    places = [i for i in range(len(expected) - len(run) + 1) if expected[i : i + len(run)] == run]
    return min(places, key=lambda place: abs(place - near), default=None)


def _agree(left: Sequence[str], right: Sequence[str]) -> int:
    """How many tokens they have in common from the start."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count
