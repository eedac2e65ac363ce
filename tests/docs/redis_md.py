"""Reads `docs/redis.md`: its commands with what they are shown to say; and runs one as a terminal would."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "redis.md"
STAND_IN = Path(__file__).with_name("redis_words.py")

WITHIN_S = 20.0
BLOCKING = "SUBSCRIBE"
FRAME = re.compile(r"^\S+ \d+-\d+ (chunk|end) \d+\r?$", re.MULTILINE)
"""The head of a frame on an inbox channel: what a subscriber waits for."""
NOTHING = {"", "(nil)", "(empty array)", "(empty hash)", "(empty set)", "(integer) -2"}
"""What a reply without an answer looks like."""


@dataclass
class Command:
    """One line behind a ``$``, and the lines that it is shown to print."""

    text: str
    shown: list[str] = field(default_factory=list[str])

    @property
    def assigns(self) -> bool:
        """Whether it only gives a name to something."""
        return re.match(r"[A-Z]=", self.text) is not None


@dataclass(frozen=True)
class Ask:
    """A request of the document's."""

    request_id: str
    priority: str
    max_tokens: int


def read_commands() -> list[Command]:
    """The commands of all ``console`` blocks, in order."""
    found: list[Command] = []
    for block in re.findall(r"^```console\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Command(line.removeprefix("$ ")))
            else:
                found[-1].shown.append(line)
    return found


def read_asks() -> list[Ask]:
    """The requests that the document sends, in order."""
    lines = re.findall(r"^ask .*", DOCUMENT.read_text(), re.MULTILINE)
    return [Ask(i, c, int(n)) for line in lines for i, c, n in re.findall(r"ask (\S+) (\S+) (\d+)", line)]


def read_up_settings() -> dict[str, str]:
    """The environment variables with which the document starts the system."""
    line = re.search(r"^(.*) sagellm-control up --valkey-port 6379$", DOCUMENT.read_text(), re.MULTILINE)
    assert line is not None
    return dict(word.split("=", 1) for word in line[1].split())


class Shell:
    """Runs commands where ``redis-cli`` finds the server on the given port, each in a terminal of its own.

    In a terminal, as ``redis-cli`` prints otherwise than into a pipe.

    Args:
        stand_in: use the stand-in even if there is a ``redis-cli``.
    """

    def __init__(self, port: int, *, stand_in: bool = False) -> None:
        # -e: an error of the server's ends it with a code.
        program = f"command redis-cli -e -p {port}"
        if stand_in or shutil.which("redis-cli") is None:
            program = f"'{sys.executable}' '{STAND_IN}' {port}"
        self._before = f'redis-cli() {{ {program} "$@"; }}\n'

    def run(self, command: Command) -> tuple[int, str]:
        """Exit code and output; a command that blocks is ended after its first message."""
        blocks = BLOCKING in command.text
        if command.assigns:
            self._before += f"{command.text}\n"
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", self._before + command.text],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        output = ""
        try:
            ends = time.monotonic() + WITHIN_S
            while select.select([ours], [], [], max(0.0, ends - time.monotonic()))[0]:
                read = _read(ours)
                output += read
                if not read:
                    return process.wait(WITHIN_S), output
                if blocks and FRAME.search(output):
                    return 0, output
            raise AssertionError(f"not within {WITHIN_S:g} s: {command.text}; it said: {output!r}")
        finally:
            if process.poll() is None:
                # Its whole session: bash, and what it waits for.
                os.killpg(process.pid, 9)
                process.wait()
            os.close(ours)


def says_nothing(output: str) -> bool:
    """Whether there is no answer in it."""
    return all(line.strip() in NOTHING for line in output.splitlines())


def _read(descriptor: int) -> str:
    try:
        return os.read(descriptor, 65536).decode(errors="replace")
    except OSError:
        return ""  # the other end is closed
