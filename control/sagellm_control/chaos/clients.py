"""The clients: each asks one question after another, in one of several ways."""

from __future__ import annotations

import asyncio
import random
from enum import StrEnum

from redis.exceptions import RedisError

from ..gateway.request_headers import idempotent_id
from ..store.connect import Store
from .http_asking import HttpAsking, Reading, pause
from .ledger import Asked, Fate, Ledger
from .library_asking import LibraryAsking
from .plan import POOL
from .question import make_question


class Way(StrEnum):
    """How a client asks."""

    STREAM = "stream"
    """A stream; a client whose gateway dies is lost to it."""
    KEYED = "keyed"
    """A stream with an Idempotency-Key: the client comes back until it has the whole answer."""
    NUMBERED = "numbered"
    """A stream with event ids: whenever it breaks off, and when the client leaves of its own accord, it is gone on with
    behind the last event, at any gateway."""
    FICKLE = "fickle"
    """The same, and it leaves of its own accord in between."""
    WHOLE = "whole"
    """One answer, not streamed, with an Idempotency-Key."""
    LEAVING = "leaving"
    """It leaves before the end, which cancels the request."""
    HURRIED = "hurried"
    """With a timeout that may well pass."""
    LIBRARY = "library"
    """Through the Python client library, which reads on where it was."""
    CANCELLING = "cancelling"
    """Through the library, and cancelled on the way."""


_WAYS = {
    Way.STREAM: 2,
    Way.NUMBERED: 4,
    Way.KEYED: 3,
    Way.FICKLE: 3,
    Way.WHOLE: 2,
    Way.LEAVING: 2,
    Way.HURRIED: 1,
    Way.LIBRARY: 3,
    Way.CANCELLING: 1,
}
"""How often each is chosen, in parts."""


class Client:
    """One client."""

    def __init__(
        self, number: int, seed: int, http: HttpAsking, library: LibraryAsking, ledger: Ledger, store: Store
    ) -> None:
        self.name = f"client-{number}"
        self.dice = random.Random(f"{seed} {self.name}")
        self._http = http
        self._library = library
        self._ledger = ledger
        self._store = store
        self._asked = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until told to stop; the last answer is read to its end."""
        while not stop.is_set():
            way = self.dice.choices(list(_WAYS), list(_WAYS.values()))[0]
            await self._ask(way)
            await pause(self.dice, 0.05)

    async def _ask(self, way: Way) -> None:
        match way:
            case Way.STREAM | Way.LEAVING | Way.HURRIED:
                await self._ask_once(way)
            case Way.KEYED | Way.FICKLE | Way.WHOLE:
                await self._ask_until_told(way)
            case Way.NUMBERED:
                await self._ask_numbered()
            case Way.LIBRARY | Way.CANCELLING:
                await self._ask_library(way)

    def _open(self, way: Way, *, keyed: bool = False) -> Asked:
        self._asked += 1
        name = f"{self.name}-{self._asked}-{way}"
        question = make_question(self.dice, name, stream=way is not Way.WHOLE, hurried=way is Way.HURRIED)
        request_id, key = (idempotent_id("", name), name) if keyed else (name, None)
        return self._ledger.open(question, request_id, key, numbered=way is Way.NUMBERED)

    def _conclude(self, asked: Asked, way: Way) -> None:
        asked.conclude()
        if asked.fate is Fate.CANCELLED and way is not Way.CANCELLING:
            self._ledger.problems.append(f"{asked.request_id}: it was cancelled, and its client had not left it")

    async def _ask_once(self, way: Way) -> None:
        asked = self._open(way)
        leave_after = self.dice.randrange(asked.question.tokens) if way is Way.LEAVING else None
        match await self._http.ask(asked, leave_after=leave_after):
            case Reading.ENDED:
                self._conclude(asked, way)
            case Reading.LEFT:
                asked.fate = Fate.CANCELLED
            case Reading.BROKEN:
                asked.fate = Fate.UNHEARD
            case Reading.REFUSED:
                await pause(self.dice)

    async def _ask_until_told(self, way: Way) -> None:
        asked = self._open(way, keyed=True)
        while True:
            leave_after = None
            if way is Way.FICKLE and self.dice.random() < 0.6:
                leave_after = self.dice.randrange(asked.question.tokens)
            if asked.accepted:
                await self._see_that_it_is_kept(asked)
                reading = await self._http.resume(asked, leave_after=leave_after)
            else:
                reading = await self._http.ask(asked, leave_after=leave_after)
            if reading is Reading.ENDED:
                self._conclude(asked, way)
                return
            if reading is Reading.REFUSED:
                # It is asked again under the same key.
                self._ledger.asked[asked.request_id] = asked
            await pause(self.dice)

    async def _ask_numbered(self) -> None:
        asked = self._open(Way.NUMBERED)
        reading = await self._http.ask(asked, leave_after=self._patience(asked))
        # A connection that broke before its answer began may have brought the request into the queue.
        while reading is not Reading.ENDED and (asked.accepted or reading is Reading.BROKEN):
            await pause(self.dice)
            reading = await self._http.resume(asked, leave_after=self._patience(asked))
        if reading is Reading.ENDED:
            self._conclude(asked, Way.NUMBERED)

    def _patience(self, asked: Asked) -> int | None:
        """After how many tokens in all it leaves this time; None: it stays."""
        return self.dice.randrange(asked.question.tokens) if self.dice.random() < 0.4 else None

    async def _ask_library(self, way: Way) -> None:
        asked = self._open(way)
        while (refused := await self._library.submit(asked)) is not None:
            if refused is Reading.REFUSED:
                self._ledger.asked[asked.request_id] = asked
            await pause(self.dice)
        cancel = way is Way.CANCELLING
        while True:
            leave_after = self.dice.randrange(asked.question.tokens) if cancel or self.dice.random() < 0.5 else None
            reading = await self._library.read_on(asked, leave_after=leave_after)
            if reading is Reading.ENDED:
                self._conclude(asked, way)
                return
            if cancel:
                # What it is told then is how the request ended: cancelled, or finished if that was faster.
                await self._library.cancel(asked)
            await pause(self.dice, 0.1)

    async def _see_that_it_is_kept(self, asked: Asked) -> None:
        """A request that was accepted and is gone would be accepted a second time, and nobody would notice."""
        try:
            kept = await self._store.commands.exists(self._store.keys.pool(POOL).record(asked.request_id))
        except (RedisError, OSError):
            return
        if not kept:
            self._ledger.lost.add(asked.request_id)
