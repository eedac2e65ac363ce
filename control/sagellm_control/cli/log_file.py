"""The log file of one child process, and which of its lines deserve the terminal."""

from __future__ import annotations

import json
import re
from collections import deque
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

KEEP_BYTES = 10 * 1024 * 1024
"""A log that is larger is put aside as ``NAME.log.1``, so a child has at most twice as much on disk."""

LAST_LINES = 8
"""Kept for the message that a child died: enough for an error and where it came from."""

_LINE_BYTES = 8192
"""Of a longer line the rest is only in the file."""

_TEXT_RECORD = re.compile(r"\d{4}-\d\d-\d\dT\S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
_LOUD = ("warning", "error", "critical")


class LogFile:
    """Takes a child's output: all of it to the file, and the lines that matter back.

    What the file does not take, as on a full disk, is dropped and said once: a pipe that nobody reads stops the child.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file: FileIO | None = None
        with suppress(OSError):  # said when something is to be written
            self._file = self._opened()
        self._drops = False
        self._partial = b""
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._loud = True

    def write(self, output: bytes) -> list[str]:
        """Write it down; the lines that are warnings, errors, or no log records at all (a traceback, say)."""
        said = self._keep(output)
        *lines, self._partial = (self._partial + output).split(b"\n")
        if len(self._partial) > _LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        texts = (line[:_LINE_BYTES].decode(errors="replace") for line in lines)
        return said + [text for text in texts if self._deserves(text)]

    def end_of_output(self) -> list[str]:
        """The process has ended: its last line counts even without a line feed."""
        line, self._partial = self._partial.decode(errors="replace"), b""
        return [line] if self._deserves(line) else []

    def last_lines(self) -> list[str]:
        """The end of what the child said."""
        return list(self._last)

    def close(self) -> None:
        """No more output comes."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _keep(self, output: bytes) -> list[str]:
        """Write it down; what there is to say of that."""
        try:
            self._file = self._file or self._opened()
            if self._file.tell() > KEEP_BYTES:
                self._file.close()
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
                self._file = self._opened()
            while output:
                output = output[self._file.write(output) :]
        except OSError as error:
            self.close()
            known, self._drops = self._drops, True
            return [] if known else [f"{self.path} cannot be written ({error.strerror}): what comes is not in it"]
        known, self._drops = self._drops, False
        return [f"{self.path} is written again"] if known else []

    def _opened(self) -> FileIO:
        # Not buffered: what could not be written must not come back with the next output, or when it is closed.
        return self.path.open("ab", buffering=0)

    def _deserves(self, line: str) -> bool:
        if not line.strip():
            return False
        self._last.append(line)
        level = _level(line)
        if level is not None:
            self._loud = level in _LOUD
        # A line without a level belongs to the record before it.
        return self._loud


def _level(line: str) -> str | None:
    if line.startswith("{"):
        try:
            record: Any = json.loads(line)
        except (ValueError, RecursionError):
            return None
        level = record.get("level") if isinstance(record, dict) else None
        return level if isinstance(level, str) else None
    found = _TEXT_RECORD.match(line)
    return found[1].lower() if found else None
