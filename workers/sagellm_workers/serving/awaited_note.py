"""Tells operators of an engine that has not answered yet."""

from __future__ import annotations

import logging
import time

from redis.exceptions import RedisError

from sagellm_control.store.awaited import KEPT_S, forget_awaited, note_awaited
from sagellm_control.store.connect import Store

log = logging.getLogger(__name__)


class AwaitedNote:
    """The note of one worker about one engine; it is for people, so nothing fails where it cannot be written."""

    def __init__(self, store: Store, url: str, worker: str) -> None:
        self._store = store
        self._url = url
        self._worker = worker
        self._told = ""
        self._told_at = float("-inf")

    async def tell(self, problem: str) -> None:
        """What keeps it away, as often as it is known; empty: nothing, it has answered."""
        now = time.monotonic()
        if problem == self._told and (not problem or now - self._told_at < KEPT_S / 3):
            return
        try:
            if problem:
                await note_awaited(self._store, self._url, worker=self._worker, reason=problem)
            else:
                await forget_awaited(self._store, self._url)
        except (RedisError, OSError) as error:
            log.debug("engine %s: the note that it is awaited was not written: %s", self._url, error)
            return
        self._told, self._told_at = problem, now
