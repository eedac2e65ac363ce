"""say_alive: which programs that hold reservations are alive.

A step, though it is one command: a server whose memory is full refuses that, and then living programs would be taken
for gone. A server that takes no writes at all refuses the step, also to those who only ask.
"""

from __future__ import annotations

from ..connect import Store
from ..script import Script

ALIVE_S = 10
"""A process that holds reservations is taken to be alive for so long (s) after it has said so."""
SAY_EVERY_S = 2.0
"""How often a living one says so; workers count on it."""

_SCRIPT = Script("say_alive")


async def say_alive(store: Store, holder: str) -> None:
    """The process lives, and with it the reservations that it made."""
    await _SCRIPT(store, [store.keys.holder(holder)], [1000 * ALIVE_S])


async def say_gone(store: Store, holder: str) -> None:
    """The process ends: nobody has to wait until it is taken for gone."""
    await store.commands.delete(store.keys.holder(holder))


async def is_alive(store: Store, holder: str) -> bool:
    """Whether the process has said so lately. Raises RedisError also where it could not have said so now."""
    return bool(await _SCRIPT(store, [store.keys.holder(holder)], [0]))
