"""A child process: its output, its environment, its end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagellm_control.cli.child import Child
from sagellm_control.cli.log_file import LogFile


class Bench:
    """Makes children that run a piece of Python."""

    def __init__(self, log: LogFile) -> None:
        self.log = log
        self.told: list[str] = []

    def child(self, script: str, **environment: str) -> Child:
        return Child("dummy", [sys.executable, "-uc", script], environment, self.log, self.told.append)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    log = LogFile(tmp_path / "dummy.log")
    yield Bench(log)
    log.close()


async def test_output_and_exit_code(bench: Bench) -> None:
    child = bench.child(
        "import os, sys; print(os.environ['WORD']); sys.stderr.write('no line feed'); sys.exit(3)", WORD="hi"
    )
    await child.start()
    assert await child.wait() == 3
    assert bench.told == ["dummy | hi", "dummy | no line feed"]
    assert child.last_lines() == ["hi", "no line feed"]
    assert bench.log.path.read_text() == "hi\nno line feed"


async def test_more_output_than_a_pipe_holds(bench: Bench) -> None:
    child = bench.child("for n in range(20000): print('2026-01-31T12:00:00.000Z INFO x: line', n)")
    await child.start()
    assert await child.wait() == 0
    assert bench.told == []
    assert bench.log.path.read_text().endswith("line 19999\n")


async def test_a_full_disk_does_not_stop_its_output(bench: Bench, tmp_path: Path) -> None:
    full = tmp_path / "full.log"
    full.symlink_to("/dev/full")
    bench.log = LogFile(full)
    child = bench.child("for n in range(20000): print('line', n)")
    await child.start()
    assert await child.wait() == 0
    assert "No space left on device" in bench.told[0]
    assert bench.told[1:] == [f"dummy | line {n}" for n in range(20000)]


async def test_a_pipe_that_breaks_does_not_hide_its_end(bench: Bench) -> None:
    child = bench.child("import time; time.sleep(1000)")
    await child.start()
    assert child._process is not None
    assert child._process.stdout is not None
    child._process.stdout.set_exception(OSError("broken"))
    child.kill()
    assert await child.wait() == -signal.SIGKILL
    assert bench.told == ["dummy: its output cannot be read any more: broken"]


async def test_it_has_a_session_of_its_own(bench: Bench) -> None:
    child = bench.child("import os; print(os.getsid(0) == os.getpid())")
    await child.start()
    await child.wait()
    assert bench.told == ["dummy | True"]


async def test_it_can_be_started_again(bench: Bench) -> None:
    child = bench.child("print('ran')")
    for _ in range(2):
        await child.start()
        assert await child.wait() == 0
    assert bench.told == ["dummy | ran"] * 2


async def test_one_that_ignores_sigterm_is_killed_after_the_deadline(bench: Bench) -> None:
    child = bench.child(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(1000)"
    )
    await child.start()
    assert child._process is not None
    assert child._process.stdout is not None
    await child._process.stdout.readline()
    assert await child.stop(0.05) is False
    assert await child.wait() == -signal.SIGKILL


async def test_one_that_stops_when_asked(bench: Bench) -> None:
    child = bench.child("import time; time.sleep(1000)")
    await child.start()
    assert await child.stop(10) is True
    assert await child.wait() == -signal.SIGTERM
    assert await bench.child("").stop(10) is True  # was never started
