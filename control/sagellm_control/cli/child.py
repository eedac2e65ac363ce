"""A child process of ``up``: on a leash, with its own log file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from ..embedded.child_process import end, kill, leashed
from .log_file import LogFile

_READ_BYTES = 65536
_LAST_OUTPUT_WITHIN_S = 1.0
"""After its end a child's pipe is read to the end; a process that it left behind may hold it open."""


class Child:
    """One process, which can be started again after it has ended.

    Args:
        name: what the terminal and the log file call it.
        tell: gets each line that deserves the terminal.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: LogFile,
        tell: Callable[[str], None],
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._log = log
        self._tell = tell
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process; it dies with us, and a terminal's Ctrl-C does not reach it."""
        self._process = await asyncio.create_subprocess_exec(
            *leashed(self._command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )

    async def wait(self) -> int:
        """Take its output until it ends; the exit code, negative for a signal."""
        process = self._started()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(process), name=f"output of {self.name}")
            code = await process.wait()
            await asyncio.wait([reading], timeout=_LAST_OUTPUT_WITHIN_S)
            reading.cancel()
        self._show(self._log.end_of_output())
        return code

    async def stop(self, deadline_s: float) -> bool:
        """SIGTERM, and SIGKILL after the deadline; whether it ended by itself."""
        return self._process is None or await end(self._process, deadline_s)

    def kill(self) -> None:
        """SIGKILL, now."""
        if self._process is not None:
            kill(self._process)

    def last_lines(self) -> list[str]:
        """The end of what it said."""
        return self._log.last_lines()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            while output := await process.stdout.read(_READ_BYTES):
                self._show(self._log.write(output))
        except OSError as error:
            self._tell(f"{self.name}: its output cannot be read any more: {error}")

    def _show(self, lines: list[str]) -> None:
        for line in lines:
            self._tell(f"{self.name} | {line}")

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._process
