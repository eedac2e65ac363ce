"""Since when an engine is silent, by what its probes and its answers say."""

from __future__ import annotations

import pytest

from sagellm_workers.health.silence import Silence

NEVER = float("-inf")


@pytest.mark.parametrize(
    ("before", "probe", "after"),
    [
        pytest.param((0, 0.0), (True, 10.0, NEVER), (0, None), id="an engine that answers goes on answering"),
        pytest.param((0, 0.0), (False, 10.0, NEVER), (1, 10.0), id="the first failure is where the silence begins"),
        pytest.param((0, 3.0), (False, 10.0, 2.0), (1, 10.0), id="a silence that is over does not go on"),
        pytest.param((1, 10.0), (False, 12.0, NEVER), (2, 10.0), id="it lasts since its first failure"),
        pytest.param((1, 10.0), (False, 12.0, 9.9), (2, 10.0), id="what was heard before it does not end it"),
        pytest.param((2, 10.0), (True, 14.0, NEVER), (0, None), id="a good probe ends it"),
        pytest.param((2, 10.0), (False, 14.0, 14.0), (0, None), id="what is heard while a probe waits ends it"),
        pytest.param((2, 10.0), (False, 14.0, 13.9), (1, 14.0), id="after a word between two probes it begins anew"),
        pytest.param((2, 10.0), (False, 14.0, 10.0), (1, 14.0), id="so it does after one at its very beginning"),
    ],
)
def test_a_probe(before: tuple[int, float], probe: tuple[bool, float, float], after: tuple[int, float | None]) -> None:
    silence = Silence(*before)
    silence.note(*probe)
    failures, since = after
    assert silence.failures == failures
    assert since is None or silence.since == since, "says nothing while the engine answers"
