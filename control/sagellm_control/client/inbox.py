"""The one channel on which a process hears the output of its requests."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from ..store.connect import Store
from ..wire.event import END, read_frames
from .answer import Answer

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 2.0
"""Pauses before subscribing again: doubled each time, with jitter."""


class Inbox:
    """A subscription that outlives its connection, and the answers that wait for something on it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.channel = store.keys.inbox(secrets.token_hex(6))
        self._answers: dict[str, list[Answer]] = {}
        self.subscribed = asyncio.Event()
        """Set while the subscription stands."""

    def open(self, answer: Answer) -> None:
        """Hand the request's events to ``answer`` from now on."""
        self._answers.setdefault(answer.request_id, []).append(answer)

    def close(self, answer: Answer) -> None:
        """Hand no more events to ``answer``."""
        answers = self._answers.get(answer.request_id, [])
        if answer in answers:
            answers.remove(answer)
        if not answers:
            self._answers.pop(answer.request_id, None)

    def pool_of(self, request_id: str) -> str | None:
        """The pool of a request that has an open answer here."""
        answers = self._answers.get(request_id)
        return answers[0].pool if answers else None

    def find_unread(self, request_id: str) -> Answer | None:
        """An open answer of this request that nobody reads yet."""
        return next((answer for answer in self._answers.get(request_id, ()) if not answer.read), None)

    async def run(self) -> None:
        """Listen until cancelled; a lost connection is made again and what was missed is read from the logs."""
        pause_s = FIRST_RETRY_S
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                log.warning("the inbox lost its connection: %s", error)
            finally:
                if self.subscribed.is_set():
                    pause_s = FIRST_RETRY_S
                self.subscribed.clear()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, LONGEST_RETRY_S)

    async def _listen(self) -> None:
        subscription = self._store.pubsub()
        try:
            await subscription.subscribe(self.channel)
            while True:
                message: dict[str, Any] | None = await subscription.get_message(
                    timeout=None  # pyright: ignore[reportArgumentType] - None waits
                )
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self.subscribed.set()
                    for answers in self._answers.values():
                        for answer in answers:
                            answer.check_log()
                elif message["type"] == "message":
                    self._deliver(message["data"])
        finally:
            await subscription.aclose()

    def _deliver(self, message: bytes) -> None:
        try:
            events = read_frames(message)
        except ValueError as error:
            log.error("a message that cannot be read came to the inbox: %s", error)
            return
        for event in events:
            for answer in tuple(self._answers.get(event.request_id, ())):
                answer.push(event)
                if event.type == END and not answer.read:
                    # Whoever wants it later finds it in the output log.
                    self.close(answer)
