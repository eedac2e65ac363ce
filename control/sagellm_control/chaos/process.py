"""One process of the system under test: it can be killed, stopped, told to go on, and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ..embedded import EmbeddedValkey
from ..embedded.child_process import end, leashed


class Kind(StrEnum):
    """What a process is; the names are those of the command line."""

    GATEWAY = "gateway"
    SCHEDULER = "scheduler"
    WORKER = "worker"
    ENGINE = "engine"
    VALKEY = "valkey"


class Running(Protocol):
    """A process that this program started, and so may end."""

    async def start(self) -> None: ...

    async def stop(self, deadline_s: float) -> bool: ...

    @property
    def pid(self) -> int: ...

    @property
    def exit_code(self) -> int | None: ...

    async def wait(self) -> int: ...


class CommandProcess:
    """``sagellm-control COMMAND …``, on a leash: it dies with this program."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self._words = list(words)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; what it says goes to its log."""
        # Nobody's settings but those on its command line.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SAGELLM_CONTROL_")}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *leashed([sys.executable, "-m", "sagellm_control", *self._words]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=kept | {"SAGELLM_CONTROL_CONFIG": os.devnull},
                start_new_session=True,
            )

    async def stop(self, deadline_s: float) -> bool:
        """SIGTERM, and SIGKILL after the deadline; whether it ended by itself."""
        return self._process is None or await end(self._process, deadline_s)

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.returncode

    async def wait(self) -> int:
        return await self._started().wait()

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("it has not been started")
        return self._process


class ValkeyProcess:
    """The embedded server. Each write is on its disk before it is answered, so no accept may be lost."""

    def __init__(self, folder: Path, port: int) -> None:
        # everysec may hold a write back for up to two seconds while a slow disk syncs the last one.
        self._server = EmbeddedValkey(folder, port=port, options={"appendfsync": "always"})
        self.url = self._server.url

    async def start(self) -> None:
        """Start it and wait until it has loaded its file."""
        await self._server.start()

    async def stop(self, deadline_s: float) -> bool:
        return await self._server.stop(deadline_s)

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def exit_code(self) -> int | None:
        return self._server.exit_code

    async def wait(self) -> int:
        return await self._server.wait()


class Victim:
    """A process and what has been done to it."""

    def __init__(self, kind: Kind, number: int, running: Running, log: Path) -> None:
        self.kind = kind
        self.name = f"{kind}-{number}"
        self.log = log
        self.busy = False
        """Something is being done to it now."""
        self.down_since: float | None = None
        """Since when it has been dead or stopped, on the monotonic clock."""
        self.last_disturbed = float("-inf")
        """When it was last dead, stopped or starting, on the monotonic clock."""
        self.started_at = float("-inf")
        """When it was last started, on the monotonic clock."""
        self._running = running

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it lives."""
        return self._running.exit_code

    async def wait(self) -> int:
        """Wait until it ends."""
        return await self._running.wait()

    def disturbed_since(self, moment: float) -> bool:
        """Whether it was not in full health at any time since then."""
        return self.busy or self.last_disturbed >= moment

    async def start(self) -> None:
        """Start it, again after it has ended."""
        self.started_at = time.monotonic()
        await self._running.start()
        self.is_up()

    async def kill(self) -> None:
        """SIGKILL."""
        self._is_down()
        self.signal(signal.SIGKILL)
        await self._running.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._is_down()
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)
        self.is_up()

    async def stop(self, deadline_s: float) -> bool:
        """SIGTERM, and SIGKILL after the deadline; whether it ended by itself."""
        self._is_down()
        return await self._running.stop(deadline_s)

    def signal(self, number: signal.Signals) -> None:
        """Send it, unless it has ended."""
        if self._running.exit_code is None:
            os.kill(self._running.pid, number)

    def _is_down(self) -> None:
        self.last_disturbed = time.monotonic()
        if self.down_since is None:
            self.down_since = self.last_disturbed

    def is_up(self) -> None:
        """It is in full health from now on."""
        self.last_disturbed = time.monotonic()
        self.down_since = None
