"""A sample of how a pool is doing, for the order that adapts to it."""

from __future__ import annotations

from ..store.connect import Store
from ..store.inspect import texts
from ..store.waiting_line import read_waiting
from ..wire.keys import read_name
from .engine_watch import EngineWatch
from .order import PoolLoad

SAMPLED = 64
"""Waiting requests that are asked whether they have an objective."""
TENANT_REQUESTS = "tenant_requests/"


async def sample_load(store: Store, pool: str, watch: EngineWatch) -> PoolLoad:
    """Look at the pool once; a few round trips."""
    keys = store.keys.pool(pool)
    pipe = store.commands.pipeline(transaction=False)
    pipe.zcard(keys.waiting)
    pipe.zrange(keys.waiting, 0, SAMPLED - 1)
    pipe.hgetall(keys.backlog)
    pipe.hmget(keys.counters, "slo_met", "slo_missed")
    waiting, ids, backlog, (met, missed) = await pipe.execute()
    sample = await read_waiting(store, pool, [read_name(request_id) for request_id in ids])
    by_tenant = [int(count) for name, count in texts(backlog).items() if name.startswith(TENANT_REQUESTS)]
    share = watch.missed_share(int(met or 0), int(missed or 0))
    return PoolLoad(
        watch.clock.now_ms(),
        waiting,
        sum(load.row.slots for load in watch.engines.loads()),
        with_objective=sum(w.arrival.slo_ms > 0 for w in sample) / max(1, len(sample)),
        missed=share,
        tenants=max(1, len(by_tenant)),
        top_tenant=max(by_tenant, default=0) / max(1, waiting),
    )
