"""Engines that workers look for and that have not answered yet.

They have no row, as only the engine can say which model it has, and with that to which pool it belongs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ValidationError

from .connect import Store
from .inspect import clock_of

KEPT_S = 30
"""What a worker has said of an engine counts for so long; one that lives says it again."""


class AwaitedEngine(BaseModel):
    """An engine that has not answered, as an operator sees it."""

    engine_id: None = None
    """It has an id, and a pool for each of its models, when it has answered."""
    pool: None = None
    url: str
    state: Literal["AWAITED"] = "AWAITED"
    reason: str
    """What went wrong when it was looked for last."""
    worker: str
    until_ms: float = 0.0
    """Until when (server time) it is taken for true."""


async def note_awaited(store: Store, url: str, *, worker: str, reason: str) -> None:
    """The worker looks for this engine, and will say so again within ``KEPT_S``."""
    key = store.keys.awaited()
    until_ms = await clock_of(store, key) + KEPT_S * 1000
    awaited = AwaitedEngine(url=url, reason=reason, worker=worker, until_ms=until_ms)
    pipe = store.commands.pipeline(transaction=False)  # one write: a worker that is killed in between would leave it
    pipe.hset(key, url, awaited.model_dump_json())
    pipe.pexpire(key, 2000 * KEPT_S)
    await pipe.execute()


async def forget_awaited(store: Store, url: str) -> None:
    """It has answered, or its worker has stopped."""
    await store.commands.hdel(store.keys.awaited(), url)


async def list_awaited(store: Store) -> list[AwaitedEngine]:
    """What living workers look for, by URL. Entries of those that have gone are removed."""
    key = store.keys.awaited()
    entries: dict[bytes, bytes] = await store.commands.hgetall(key)
    if not entries:
        return []
    now_ms = await clock_of(store, key)
    found: list[AwaitedEngine] = []
    for url, text in sorted(entries.items()):
        try:
            awaited = AwaitedEngine.model_validate_json(text)
        except ValidationError:
            awaited = None  # somebody has written something else there
        if awaited is not None and awaited.until_ms >= now_ms:
            found.append(awaited)
        else:
            await store.commands.hdel(key, url)
    return found
