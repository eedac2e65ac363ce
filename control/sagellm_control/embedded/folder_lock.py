"""One server a data folder: a lock that the running server itself holds."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

LOCK_FILE = "lock"

_OWNER_BYTES = 200
"""The file holds one short line."""


class FolderInUseError(RuntimeError):
    """Another server, maybe one that an earlier run left behind, works in the folder."""


class FolderLock:
    """An flock on ``FOLDER/lock``, whose descriptor the server inherits.

    The kernel frees it when the last process that has it ends. So it cannot become stale, and a server that
    outlived its supervisor still keeps others out of its append-only file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """To be passed on to the server."""
        if self._descriptor is None:
            raise RuntimeError("the lock is not held")
        return self._descriptor

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            FolderInUseError: says which process to look at.
        """
        descriptor = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, _OWNER_BYTES, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise FolderInUseError(
                f"the data folder {self._folder} is in use by {owner or 'a process that starts now'}: "
                "stop what runs there (or what an earlier run left behind), or choose another folder"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self.note_owner(f"pid {os.getpid()}")
        return self

    def note_owner(self, owner: str) -> None:
        """Write into the file who has it, for the message that the next one gets."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, owner.encode(), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
