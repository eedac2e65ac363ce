"""A place that is held for a program which runs its request on the engine itself.

The reservation comes through the queue like any request: the same order, the same room, the same ledger. Its attempt
tells the engine's name and then holds the place until the program cancels it, or is gone.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from redis.exceptions import RedisError

from sagellm_control.store.connect import Store
from sagellm_control.store.registrations import is_alive
from sagellm_control.wire.states import Outcome

from .attempt import Attempt

LOOK_EVERY_S = 3.0
"""How often it is looked whether the program is still there."""


async def hold(attempt: Attempt, store: Store, body: bytes) -> None:
    """Hold the place of a reservation until it is cancelled or its program has gone."""
    fields: dict[str, Any] = orjson.loads(body)
    attempt.pending.append(b"data: " + orjson.dumps({"engine": attempt.engine_id}) + b"\n\n")
    attempt.outbox.output(attempt)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            alive = await is_alive(store, str(fields.get("holder")))
        except (RedisError, OSError):
            continue  # nobody can say so now
        if not alive:
            attempt.end(Outcome.CANCELLED, 499, "holder_lost", "The program that held the reservation has gone.")
            return
