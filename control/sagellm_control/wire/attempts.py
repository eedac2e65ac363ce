"""The numbers of a request's attempts: 1, 2, … for each engine that it is assigned to."""

from __future__ import annotations

ATTEMPTS_APART = 1000
"""A request whose record was lost is submitted again, and counts its attempts from here on, from twice here the next
time: an attempt of before, which may still run somewhere, is none of the current ones and is refused."""


def was_tried(attempt: int) -> bool:
    """Whether an engine has had the request that has come to this attempt. (Also in ``steps/prelude.lua``.)"""
    return attempt % ATTEMPTS_APART > 0
