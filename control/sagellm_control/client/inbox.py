"""The one channel on which a process hears the output of its requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets

from redis.exceptions import RedisError

from ..store.backoff import Backoff
from ..store.connect import Store
from ..store.subscription import listen
from ..store.trouble import Trouble
from ..wire.event import END, read_frames
from .answer import Answer
from .errors import RequestConflict

log = logging.getLogger(__name__)

ECHO_EVERY_S = 2.0
"""How often the inbox speaks to itself."""
SILENCE_S = 5.0
"""An inbox that has not heard itself for so long is subscribed anew."""
UNREAD_KEPT_S = 1.0
"""An answer that has ended and that nobody reads is kept for so long: it may come before its submitter is told that the
request was accepted, and is then not read from the output log."""
NOTHING = b""
"""A message without events: what the inbox says to itself."""


class Inbox:
    """A subscription that outlives its connection, and the answers that wait for something on it.

    A subscriber only listens, so it would not notice a connection that was cut without a word, or a server that nobody
    publishes to any more (a master that was replaced, a node that lost its cluster). So the inbox publishes to itself
    and expects to hear it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.channel = store.keys.inbox(secrets.token_hex(6))
        self._answers: dict[str, list[Answer]] = {}
        self._trouble = Trouble(log, "the inbox lost its connection")
        self.subscribed = asyncio.Event()
        """Set while the subscription stands."""

    def open(self, answer: Answer) -> None:
        """Hand the request's events to ``answer`` from now on.

        Raises:
            RequestConflict: a request of this id in another pool is open here. Events are told apart by the id.
        """
        if self.pool_of(answer.request_id) not in (None, answer.pool):
            raise RequestConflict(answer.request_id)
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

    def find_unread(self, request_id: str, pool: str | None) -> Answer | None:
        """An open answer of this request (in this pool, if one is named) that nobody reads yet."""
        if pool is not None and pool != self.pool_of(request_id):
            return None
        answers = self._answers.get(request_id, ())
        return next((answer for answer in answers if answer.accepted and not answer.read), None)

    async def run(self) -> None:
        """Listen until cancelled; a lost connection is made again and what was missed is read from the logs. Whoever
        still waits for an event at the end is told that none comes."""
        try:
            await self._listen()
        finally:
            for answers in self._answers.values():
                for answer in answers:
                    answer.deafen()

    async def _listen(self) -> None:
        backoff = Backoff()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._speak(), name="inbox echo")
            while True:
                try:
                    await listen(self._store.subscriber(), self.channel, self._hear, silence_s=SILENCE_S)
                except Exception as error:
                    self._trouble.tell(error)
                finally:
                    if self.subscribed.is_set():
                        backoff.reset()
                    self.subscribed.clear()
                await backoff.pause()

    async def _speak(self) -> None:
        while True:
            await asyncio.sleep(ECHO_EVERY_S)
            if self.subscribed.is_set():
                with contextlib.suppress(RedisError, OSError):
                    await self._store.commands.publish(self.channel, NOTHING)

    def _hear(self, message: bytes | None) -> None:
        if message is not None:
            self._deliver(message)
            return
        self.subscribed.set()
        self._trouble.over()
        for answers in self._answers.values():
            for answer in answers:
                answer.check_log()

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
                    # Who submitted it is about to read it, or never does.
                    asyncio.get_running_loop().call_later(UNREAD_KEPT_S, self._close_unread, answer)

    def _close_unread(self, answer: Answer) -> None:
        # Whoever wants it later finds it in the output log.
        if not answer.read:
            self.close(answer)
