"""aiohttp's side of a connection, which tells the reader of an answer when the rest of it is no HTTP."""

from __future__ import annotations

from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler


class EngineProtocol(ResponseHandler):
    """Breaks off the answer that is being read, and resumes only what was paused.

    aiohttp (3.14) tells a failure to parse the body only to whoever waits for the next head: who reads the body would
    wait until its gap has lasted too long.
    """

    has_carried = False
    """Whether a request has gone over it."""

    def resume_reading(self, *arguments: Any, **options: Any) -> None:
        # aiohttp (3.14) runs its parser over nothing after each chunk that is read. (Parser and socket pause together.)
        if self._reading_paused:
            super().resume_reading(*arguments, **options)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        payload = self._payload
        if exc_cause is None:
            super().set_exception(exc)
        else:
            super().set_exception(exc, exc_cause)
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError(f"the rest of the answer cannot be read: {exc}"))
