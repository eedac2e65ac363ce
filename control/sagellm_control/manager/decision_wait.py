"""Waiting for what becomes of a wish, which is kept for as long as somebody does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

from .backend import ASKED_AGAIN_S


async def decided_within(decided: asyncio.Event, timeout_s: float | None, keep: Callable[[], bool]) -> bool:
    """Wait for a decision about a wish; False: the wish is there no more.

    Args:
        keep: whoever waits is there still, so the wish is kept for another while; False: it is there no more.
    """
    loop = asyncio.get_running_loop()
    until = math.inf if timeout_s is None else loop.time() + timeout_s
    while keep():
        left_s = until - loop.time()
        if left_s <= 0 or decided.is_set():
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left_s, ASKED_AGAIN_S / 2)):
                await decided.wait()
                return True
    return False
