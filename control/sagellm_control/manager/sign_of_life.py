"""Says that this program lives, to the workers that hold places for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.steps.say_alive import SAY_EVERY_S, say_alive, say_gone
from ..store.trouble import Trouble

log = logging.getLogger(__name__)


@asynccontextmanager
async def said_alive(store: Store, holder: str) -> AsyncGenerator[None, None]:
    """Say so again and again, whatever else this program waits for; and at the end that it does so no more, so that
    nobody has to wait until it is taken for gone."""
    task = asyncio.create_task(_say_alive(store, holder), name="alive")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        with suppress(RedisError, OSError):
            await say_gone(store, holder)


async def _say_alive(store: Store, holder: str) -> None:
    trouble = Trouble(log, "cannot say that this program lives")
    while True:
        with trouble.told():
            await say_alive(store, holder)
        await asyncio.sleep(SAY_EVERY_S)
