"""One process under test: started on a leash, its log kept, its CPU time and memory read from /proc."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sagellm_control.embedded.child_process import describe, end, leashed

STOP_WITHIN_S = 15.0
"""A worker drains first; nothing is left to drain when a benchmark is over."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LOG_LINES = 12


class BenchmarkFailed(Exception):
    """The run cannot go on; the text says why."""


class ProcessDied(BenchmarkFailed):
    """A process under test ended by itself; the text shows the end of its log."""


class MeasuredProcess:
    """A child process. It dies with us, and we end it by its own id alone."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    def control(
        cls, name: str, arguments: Sequence[str], folder: Path, *, under: Sequence[str] = ()
    ) -> MeasuredProcess:
        """A ``python -m sagellm_control …`` process that logs warnings.

        Args:
            under: the command that runs it, valgrind's say.
        """
        # Settings of the shell or of a TOML file here would change what is measured.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SAGELLM_CONTROL_")}
        command = [*under, sys.executable, "-m", "sagellm_control", *arguments]
        quiet = ["--config", os.devnull, "--log-level", "warning"]
        return cls(name, [*command, *quiet], folder / f"{name}.log", environment)

    @property
    def pid(self) -> int:
        """Its process id; it must have been started."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *leashed(self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            await end(self._process, STOP_WITHIN_S)

    def check(self) -> None:
        """See that it still runs.

        Raises:
            ProcessDied: it does not.
        """
        if self._process is not None and self._process.returncode is not None:
            lines = "\n  ".join(self.log_lines()[-_LOG_LINES:])
            raise ProcessDied(f"{self.name} ended with {describe(self._process.returncode)}:\n  {lines}")

    def log_lines(self) -> list[str]:
        """What it has logged: warnings and errors."""
        return self.log.read_text(errors="replace").splitlines()


def cpu_s(pid: int) -> float:
    """CPU time (s) that a process has used so far, in steps of 10 ms; 0 where there is no /proc."""
    try:
        # The command's name, in parentheses, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory (MiB) now and at its peak; zeros where there is no /proc."""
    found = {"VmRSS": 0.0, "VmHWM": 0.0}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) / 1024
    return found["VmRSS"], found["VmHWM"]
