"""Engines that programs have registered, by pool."""

from __future__ import annotations

import logging

from ..wire.registration import Registration
from .connect import Store
from .inspect import list_pools
from .steps.say_alive import is_alive

log = logging.getLogger(__name__)


async def register(store: Store, registration: Registration) -> Registration | None:
    """Register an engine, and make its pool known; what stands there instead, if the id is taken.

    What a process served itself has gone with it, so that its id is free.
    """
    keys = store.keys.pool(registration.model_id)
    taken = not await store.commands.hsetnx(keys.registrations, registration.engine_id, registration.encode())
    known = await store.commands.hget(keys.registrations, registration.engine_id) if taken else None
    await announce_pool(store, registration.model_id)
    if known is None or known == registration.encode():
        return None
    other = Registration.decode(known)
    if other.server and not await is_alive(store, other.server):
        await replace(store, registration)
        return None
    return other


async def replace(store: Store, registration: Registration) -> None:
    """Change what is registered of an engine."""
    keys = store.keys.pool(registration.model_id)
    await store.commands.hset(keys.registrations, registration.engine_id, registration.encode())


async def unregister(store: Store, pool: str, engine_id: str) -> None:
    """Forget a registration."""
    await store.commands.hdel(store.keys.pool(pool).registrations, engine_id)


async def announce_pool(store: Store, pool: str) -> None:
    """Make a pool known that may not have a running engine yet."""
    await store.commands.sadd(store.keys.pools(), pool)
    await store.commands.hsetnx(store.keys.models(), pool, pool)


async def registrations(store: Store) -> list[Registration]:
    """All registrations of all pools."""
    found: list[Registration] = []
    for pool in await list_pools(store):
        for engine_id, value in (await store.commands.hgetall(store.keys.pool(pool).registrations)).items():
            try:
                found.append(Registration.decode(value))
            except ValueError as error:
                log.error("pool %s: the registration of engine %r cannot be read: %s", pool, engine_id, error)
    return sorted(found, key=lambda registration: (registration.created_at, registration.engine_id))
