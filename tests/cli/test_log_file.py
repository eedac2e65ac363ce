"""A child's log file: everything is in it, what matters comes back, and it does not grow for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sagellm_control.cli import log_file
from sagellm_control.cli.log_file import LogFile

INFO = b"2026-01-31T12:00:00.000Z INFO worker: fine\n"
ERROR = b"2026-01-31T12:00:00.000Z ERROR worker: broken\n"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    file = LogFile(tmp_path / "logs" / "worker.log")
    yield file
    file.close()


def test_a_trace_belongs_to_the_error_before_it(log: LogFile) -> None:
    shown = log.write(INFO + ERROR + b"Traceback (most recent call last):\n  File x\n" + INFO + b"and so on\n")
    assert shown == [ERROR.decode().strip(), "Traceback (most recent call last):", "  File x"]
    assert log.path.read_bytes().count(b"\n") == 6


def test_what_is_no_log_record_is_shown(log: LogFile) -> None:
    assert log.write(b"Error: port 8000 on 127.0.0.1 is in use\n") == ["Error: port 8000 on 127.0.0.1 is in use"]


def test_lines_may_come_in_pieces(log: LogFile) -> None:
    assert log.write(ERROR[:10]) == []
    assert log.write(ERROR[10:] + b"no line feed") == [ERROR.decode().strip()]
    assert log.end_of_output() == ["no line feed"]
    assert log.last_lines() == [ERROR.decode().strip(), "no line feed"]


def test_only_the_last_lines_are_kept(log: LogFile) -> None:
    log.write(INFO * 100 + ERROR)
    assert len(log.last_lines()) == log_file.LAST_LINES
    assert log.last_lines()[-1] == ERROR.decode().strip()


def test_a_line_without_end_does_not_pile_up(log: LogFile) -> None:
    for _ in range(10):
        log.write(b"x" * 5000)
    assert all(len(line) <= 8192 for line in log.last_lines())
    assert log.path.stat().st_size == 50_000


def test_a_large_file_is_put_aside(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "KEEP_BYTES", 100)
    log.write(INFO * 3)
    log.write(ERROR)
    assert log.path.read_bytes() == ERROR
    assert log.path.with_name("worker.log.1").read_bytes() == INFO * 3


def test_what_cannot_be_written_is_dropped_and_said_once(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    path.symlink_to("/dev/full")
    log = LogFile(path)
    assert log.write(ERROR) == [
        f"{path} cannot be written (No space left on device): what comes is not in it",
        ERROR.decode().strip(),
    ]
    assert log.write(INFO + ERROR) == [ERROR.decode().strip()]
    path.unlink()
    assert log.write(INFO) == [f"{path} is written again"]
    assert log.write(INFO) == []
    log.close()
    assert path.read_bytes() == INFO * 2
    assert log.last_lines() == [line.decode().strip() for line in (ERROR, INFO, ERROR, INFO, INFO)]


def test_a_large_file_that_cannot_be_put_aside_ends_nothing(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "KEEP_BYTES", 100)
    aside = log.path.with_name("worker.log.1")
    aside.mkdir()
    log.write(INFO * 3)
    for shown in (1, 0):
        assert len(log.write(INFO)) == shown
    aside.rmdir()
    assert log.write(INFO) == [f"{log.path} is written again"]


def test_a_line_that_looks_like_json_of_endless_depth_is_shown(log: LogFile) -> None:
    line = '{"a":' * 1500
    assert log.write(line.encode() + b"\n") == [line]
