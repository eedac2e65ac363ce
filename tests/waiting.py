"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

LOOK_EVERY_S = 0.005
"""Fine enough that nobody waits for it, coarse enough that a busy machine gets on with its work."""


async def wait_until(
    predicate: Callable[[], Any | Awaitable[Any]], timeout_s: float = 30.0, *, what: str | Callable[[], object] = ""
) -> Any:
    """Ask until the answer is truthy; that answer.

    Args:
        predicate: plain or async.
        timeout_s: longest wait; generous, as it is only waited for in full when something is broken.
        what: what is waited for, for the message; or a function that says what is missing when it did not come.

    Raises:
        AssertionError: it did not become true; shows the last answer.
    """
    answer: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                given = predicate()
                answer = await given if inspect.isawaitable(given) else given
                if answer:
                    return answer
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        missing = what() if callable(what) else what or predicate
        raise AssertionError(f"not so within {timeout_s:g} s: {missing}; last answer: {answer!r}") from None
