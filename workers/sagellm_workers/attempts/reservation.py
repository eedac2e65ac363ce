"""A place that is held for a program which runs its request on the engine itself.

The reservation comes through the queue like any request: the same order, the same room, the same ledger. Its attempt
tells the engine's name and then holds the place until the program cancels it, or is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson
from redis.exceptions import RedisError

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.say_alive import SAY_EVERY_S, is_alive
from sagellm_control.wire.states import Outcome

from .attempt import Attempt

LOOK_EVERY_S = 3.0
"""How often it is looked whether the program is still there."""


class Holder:
    """The program that holds a reservation.

    While Redis is away, or takes no writes, no program can say that it lives. So one is gone only when every look for
    longer than a living one needs to say so has found nothing. A look that fails begins that time anew.
    """

    def __init__(self, store: Store, name: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """``monotonic``: a clock in seconds."""
        self._store = store
        self._name = name
        self._monotonic = monotonic
        self._patience_s = SAY_EVERY_S + store.settings.command_timeout_s + store.settings.connect_timeout_s
        self._silent_since: float | None = None

    async def has_gone(self) -> bool:
        """Look once."""
        began = self._monotonic()
        try:
            alive = await is_alive(self._store, self._name)
        except (RedisError, OSError):
            alive = True  # nobody can say so now
        if alive:
            self._silent_since = None
            return False
        if self._silent_since is None:
            self._silent_since = self._monotonic()
        return began - self._silent_since > self._patience_s


async def hold(attempt: Attempt, store: Store, body: bytes) -> None:
    """Hold the place of a reservation until it is cancelled or its program has gone."""
    fields: dict[str, Any] = orjson.loads(body)
    attempt.pending.append(b"data: " + orjson.dumps({"engine": attempt.engine_id}) + b"\n\n")
    attempt.outbox.output(attempt)
    holder = Holder(store, str(fields.get("holder")))
    gone = False
    while not gone:
        await asyncio.sleep(LOOK_EVERY_S)
        gone = await holder.has_gone()
    attempt.end(Outcome.CANCELLED, 499, "holder_lost", "The program that held the reservation has gone.")
