"""Writes a batch until Redis has taken it, and gives up only what no repetition can make it take."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from redis.exceptions import RedisError, ResponseError

from sagellm_control.store.backoff import Backoff
from sagellm_control.store.trouble import Trouble

log = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 2.0
"""Pauses after Redis could not be reached: doubled each time, with jitter."""
PASSING = frozenset({"BUSY", "LOADING", "MISCONF", "NOREPLICAS", "UNBLOCKED", "UNKILLABLE"})
"""First words of answers that redis-py has no class for, and that are about the server's state and not the call."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def is_final(error: Exception) -> bool:
    """Whether the server would say the same to the same call again: a key of the wrong type, text for a number."""
    # What passes (memory, a failover, a moved slot, an ACL being repaired) has a class of its own, or such a word.
    return type(error) is ResponseError and str(error).partition(" ")[0] not in PASSING


async def write_until_taken(
    what: str, items: Sequence[Item], write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]
) -> list[Answer | None]:
    """Write a batch; each step finds done what it did before, so it may be repeated until Redis has answered.

    A batch that is refused for good is written item by item, so that one item that is at fault stops no other.

    Args:
        what: for the log: who writes what.

    Returns:
        The answer to each item; None: it was refused for good.
    """
    backoff, trouble = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S), Trouble(log, f"{what}: cannot write to Redis")
    while True:
        try:
            answers: list[Answer | None] = list(await write(items))
        except (RedisError, OSError) as error:
            if not is_final(error):
                trouble.tell(error)
            elif len(items) > 1:
                return [answer for item in items for answer in await write_until_taken(what, [item], write)]
            else:
                log.error("%s: Redis refuses %r for good: %s", what, items[0], error)
                return [None]
        else:
            trouble.over()
            return answers
        await backoff.pause()
