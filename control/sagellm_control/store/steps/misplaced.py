"""remove_misplaced: what has another type than the steps expect makes room for what belongs there."""

from __future__ import annotations

from collections.abc import Sequence

from redis.exceptions import RedisError, ResponseError

from ..connect import Store
from ..script import Script

_SCRIPT = Script("remove_misplaced")


def is_misplaced(error: RedisError | OSError) -> bool:
    """Whether a command failed as a key has another type than it expects."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


async def remove_misplaced(
    store: Store, pool: str, engines: Sequence[str], requests: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Delete those keys of a pool, of engines and of requests that have a wrong type.

    Returns:
        The name of each that was deleted, and the type that it had.
    """
    keys = store.keys.pool(pool)
    types = dict.fromkeys((*keys.intake, keys.freed, keys.placements, keys.dead), "stream")
    types |= dict.fromkeys((keys.waiting, keys.room, keys.leases, keys.expiries, keys.tenants, keys.orphans), "zset")
    types |= dict.fromkeys((keys.engines, keys.misranked), "set")
    types |= dict.fromkeys((keys.registrations, keys.settings, keys.reranking, keys.backlog), "hash")
    types |= dict.fromkeys((keys.lengths, keys.counters, keys.retries), "hash")
    types |= dict.fromkeys((keys.virtual_time, keys.woken), "string")
    for engine in engines:
        types |= dict.fromkeys((keys.engine(engine), keys.reservations(engine)), "hash")
        types[keys.assigned(engine)] = "stream"
    for request_id in requests:
        types |= {keys.record(request_id): "hash", keys.output(request_id): "stream"}
    names = list(types)
    answer = await _SCRIPT(store, names, [len(names), *(types[name] for name in names)])
    return [(names[number - 1], kind.decode()) for number, kind in zip(answer[::2], answer[1::2], strict=True)]
