"""``sagellm-control up`` as a process of its own, for the tests that need the whole system."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from click.testing import CliRunner

from sagellm_control.cli.root import root

SLOW_S = 60.0
"""Everything takes a second or two; a busy machine gets more."""


def eventually(holds: Callable[[], object], what: str) -> None:
    """Wait until it holds."""
    ends = time.monotonic() + SLOW_S
    while not holds():
        assert time.monotonic() < ends, f"not within {SLOW_S:g} s: {what}"
        time.sleep(0.02)


def clean_environment(**settings: str) -> dict[str, str]:
    """Our environment without anybody's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAGELLM_CONTROL_")}
    return kept | settings


def control(*words: str, text: str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``sagellm-control`` as a process and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "sagellm_control", *words],
        input=text,
        capture_output=True,
        text=True,
        timeout=SLOW_S,
        env=clean_environment(**settings),
    )


class Up:
    """A running system in a folder."""

    def __init__(self, folder: Path, *words: str, **settings: str) -> None:
        self.folder = folder
        self._words = [sys.executable, "-m", "sagellm_control", "up", "--data-dir", str(folder / "store"), *words]
        if "--port" not in words:
            self._words += ["--port", "0"]
        self._settings = settings
        self.said = ""
        self.announced = ""

    def __enter__(self) -> Self:
        """Start it and wait until it says that it is ready."""
        self.start(subprocess.PIPE)
        self._reader = threading.Thread(target=self._read_errors)
        self._reader.start()
        if self.gets_ready():
            return self
        self.__exit__()
        raise AssertionError(f"up did not get ready:\n{self.said}")

    def gets_ready(self) -> bool:
        """Wait until it says that it is ready; False: it has ended before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.announced += line
            if line.startswith("Ctrl-C stops everything"):
                return True
        return False

    def start(self, stderr: int) -> None:
        """Start it and wait for nothing."""
        self.process = subprocess.Popen(
            self._words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=self.folder,
            env=clean_environment(**self._settings),
        )

    def __exit__(self, *_: object) -> None:
        """Stop it as a service manager does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(SLOW_S)
        finally:
            self.process.kill()
            self._reader.join()
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()

    @property
    def url(self) -> str:
        """Of the gateway."""
        return self._find(r"Ready: (\S+)/v1")

    @property
    def redis(self) -> str:
        """What the other commands need to find the system."""
        return self._find(r"--redis-url=?\s?(\S+)")

    def control(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command against this system, in this process: that is ten times as fast."""
        result = CliRunner(env={"SAGELLM_CONTROL_REDIS_URL": self.redis}).invoke(root, list(words), input=text)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return subprocess.CompletedProcess(words, result.exit_code, result.stdout, result.stderr)

    def start_enqueue(self, *words: str, stdout: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
        """``enqueue`` against this system, as a process that goes on while the test does something else."""
        return subprocess.Popen(
            [sys.executable, "-m", "sagellm_control", "enqueue", "--redis-url", self.redis, *words],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )

    def children(self) -> dict[int, str]:
        """Its processes: id and command line."""
        found: dict[int, str] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                except OSError:
                    continue
                if parent == self.process.pid:
                    found[int(folder.name)] = words
        return found

    def _find(self, pattern: str) -> str:
        found = re.search(pattern, self.announced)
        assert found, self.announced
        return found[1]

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
