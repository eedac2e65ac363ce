"""Which pool a request goes to, and whether its id is free in all the others."""

from __future__ import annotations

from redis.exceptions import RedisError

from .errors import QueueUnavailable, RequestConflict, UnknownModel
from .pools import Pools


async def destination(pools: Pools, model: str, request_id: str | None, *, idempotent: bool) -> tuple[str, bool]:
    """The pool that serves a model, and whether the request is known to be there already.

    Args:
        request_id: None: no pool can have it, so none is asked.
        idempotent: a request of this id in that very pool may be this one. Otherwise that pool is not asked, as it
            turns a second one away by itself.

    Raises:
        UnknownModel.
        RequestConflict: another pool has a request of this id.
        QueueUnavailable: Redis did not say.
    """
    known: list[str] = []
    try:
        pool = pools.models.get(model) or await pools.find(model)
        if request_id is not None:
            known = await pools.with_request(request_id, besides=None if idempotent else pool)
    except (RedisError, OSError) as error:
        raise QueueUnavailable(error) from error
    if pool is None:
        raise UnknownModel(model, list(pools.models))
    if request_id is not None and set(known) - {pool}:
        raise RequestConflict(request_id)
    return pool, pool in known
