"""Follows the file of API keys while the gateway runs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from .api_keys import ApiKeys, ApiKeysUnreadable, Caller

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


class ApiKeysFile:
    """The keys of a file as it is now. One that cannot be used leaves the keys of before in force.

    Raises:
        ApiKeysUnreadable: it cannot be used at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._keys = ApiKeys.read(path)

    def find(self, key: str) -> Caller | None:
        """Whose key it is."""
        return self._keys.find(key)

    async def run(self) -> None:
        """Follow it until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            # The file may be on a server that hangs.
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Read it again if it has changed since it was read, or found wrong, last."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = ApiKeys.read(self._path)
        except (ApiKeysUnreadable, RecursionError) as error:
            log.warning("%s; the API keys that were read before stay in force", error)
        else:
            log.info("%s has changed: its API keys are in force", self._path)

    def _stamp(self) -> tuple[int, ...] | None:
        """Another one after each change, also of who may read it. Taken before it is read: what changes meanwhile is
        read the next time."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
