"""The order of what a worker writes when it is given a request."""

from __future__ import annotations

import asyncio


async def engine_calls_first() -> None:
    """Let the calls to engines that were just begun be written before what comes after this.

    A first token waits for them. An attempt begins in one turn of the loop, and aiohttp writes its request in the next.
    """
    await asyncio.sleep(0)
    await asyncio.sleep(0)
