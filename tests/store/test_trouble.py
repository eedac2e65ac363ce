"""What a loop says of what it tries again and again."""

from __future__ import annotations

import asyncio
import logging

import pytest
from redis.exceptions import ConnectionError, NoPermissionError

from sagellm_control.store.trouble import Trouble

log = logging.getLogger(__name__)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_an_outage_is_told_once_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trouble = Trouble(log, "cannot look")
    trouble.over()
    assert lines(caplog) == []
    for _ in range(2):
        for times in range(3):
            trouble.tell(ConnectionError(f"away {times}"))
        trouble.over()
        trouble.over()
    assert lines(caplog) == [("WARNING", "cannot look: away 0"), ("INFO", "cannot look: that is over")] * 2


def test_what_is_wrong_meanwhile_is_told_as_well(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble(log, "cannot look")
    for error in (ConnectionError("away"), NoPermissionError("no"), ConnectionError("away"), NoPermissionError("no")):
        trouble.tell(error)
    assert lines(caplog) == [("WARNING", "cannot look: away"), ("WARNING", "cannot look: no")]


def test_a_bug_has_its_traceback_each_time(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble(log, "cannot look")
    for _ in range(2):
        trouble.tell(KeyError("field"))
    assert lines(caplog) == [("ERROR", "cannot look: KeyError('field'); going on")] * 2
    assert all(record.exc_info for record in caplog.records)


def test_a_try_is_told_and_a_loop_can_still_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trouble = Trouble(log, "cannot look")
    for error in (ConnectionError("away"), KeyError("field"), None):
        with trouble.told():
            if error is not None:
                raise error
    assert lines(caplog) == [
        ("WARNING", "cannot look: away"),
        ("ERROR", "cannot look: KeyError('field'); going on"),
        ("INFO", "cannot look: that is over"),
    ]
    with pytest.raises(asyncio.CancelledError), trouble.told():
        raise asyncio.CancelledError
    assert len(lines(caplog)) == 3
