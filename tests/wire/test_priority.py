"""The priority classes: their order, and how they are written."""

from __future__ import annotations

import pytest

from sagellm_control.wire.priority import RequestPriority


def test_the_most_urgent_has_the_lowest_number() -> None:
    assert [p.label for p in sorted(RequestPriority)] == ["critical", "high", "normal", "low", "background"]


@pytest.mark.parametrize("text", ["HIGH", "high", " High ", "1"])
def test_parse(text: str) -> None:
    assert RequestPriority.parse(text) is RequestPriority.HIGH


@pytest.mark.parametrize("text", ["", "urgent", "5", "-1", "1.0", "²"])
def test_parse_lists_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="CRITICAL, HIGH, NORMAL, LOW, BACKGROUND"):
        RequestPriority.parse(text)
