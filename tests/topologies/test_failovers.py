"""kill -9 of a master under load, and a slot that moves under load: answers are right, late, or refused with a time."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from redis.crc import key_slot
from redis.exceptions import RedisError

from sagellm_control.store.connect import open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.views import list_engines

from ..cluster_group import ClusterServers
from ..flow.asking import MODEL
from ..flow.conftest import StartEngine
from ..flow.in_process import GATEWAY, InProcessSystem, in_process_system
from ..sentinel_group import SentinelServers
from ..waiting import wait_until
from .failing_over import SOON, impatient
from .load import Load, under_load

RECOVERS_WITHIN_S = 20.0


QUICK = GATEWAY.model_copy(update={"keepalive_s": 0.5})


async def more(load: Load, count: int = 30) -> None:
    """Wait until so many more answers have come."""
    before = load.whole
    await wait_until(lambda: load.whole >= before + count, RECOVERS_WITHIN_S, what=lambda: f"answers come: {load}")


async def nothing_left(system: InProcessSystem) -> None:
    async def idle() -> bool:
        try:
            # Anew each time: an idle connection may be to a server that is the master no more and does not know it.
            async with open_store(system.redis, check=False) as store:
                return all(view.active == 0 for view in await list_engines(store))
        except (RedisError, OSError):
            return False

    await wait_until(idle, RECOVERS_WITHIN_S, what="no reservation is left")


@asynccontextmanager
async def under_load_on(url: str, start_engine: StartEngine) -> AsyncGenerator[tuple[InProcessSystem, Load], None]:
    """A system that answers; afterwards all that it answered was right, and nothing of it is left."""
    engine = await start_engine(tpot_ms=5)
    redis = impatient(RedisSettings(url=url))
    async with in_process_system(redis, [engine.url], gateway=QUICK, scheduler=SOON) as system:
        async with under_load(system) as load:
            await more(load)
            yield system, load
        assert load.wrong == []
        await nothing_left(system)


async def test_the_master_behind_sentinels_dies(doomed_sentinels: SentinelServers, start_engine: StartEngine) -> None:
    async with under_load_on(doomed_sentinels.url, start_engine) as (_, load):
        master = await doomed_sentinels.master()
        await doomed_sentinels.kill(master)
        await doomed_sentinels.failed_over(master)
        await more(load)


async def test_a_master_of_a_cluster_dies(doomed_cluster: ClusterServers, start_engine: StartEngine) -> None:
    async with under_load_on(doomed_cluster.url, start_engine) as (system, load):
        key = system.store.keys.pool(MODEL).waiting
        master = await doomed_cluster.owner_of(key)
        await doomed_cluster.kill(master)

        async def failed_over() -> bool:
            return await doomed_cluster.owner_of(key) != master

        await wait_until(failed_over, RECOVERS_WITHIN_S, what="its replica is the master")
        await more(load)


async def test_the_node_that_knows_the_pools_dies(doomed_cluster: ClusterServers, start_engine: StartEngine) -> None:
    """The names of pools and models are on other nodes than the pool: while they are away, what is known goes on."""
    engine = await start_engine(tpot_ms=5)
    async with in_process_system(
        impatient(RedisSettings(url=doomed_cluster.url)), [engine.url], gateway=QUICK, scheduler=SOON
    ) as system:
        keys = system.store.keys
        owners = {await doomed_cluster.owner_of(key) for key in (keys.pools(), keys.models())}
        others = owners - {await doomed_cluster.owner_of(keys.pool(MODEL).waiting)}
        assert others, "the pool is on a node of its own"
        async with under_load(system) as load:
            await more(load)
            for node in others:
                await doomed_cluster.kill(node)
            await more(load, 100)
        assert load.wrong == []
        await doomed_cluster.heal()
        await nothing_left(system)


async def test_a_slot_moves_under_load(doomed_cluster: ClusterServers, start_engine: StartEngine) -> None:
    """With MOVED, ASK and TRYAGAIN on the way; there and back again."""
    async with under_load_on(doomed_cluster.url, start_engine) as (system, load):
        key = system.store.keys.pool(MODEL).waiting
        for _ in range(2):
            source = await doomed_cluster.owner_of(key)
            await doomed_cluster.move_slot(key_slot(key.encode()), source, (source + 1) % 3)
            await more(load)
    assert load.ended == 0


async def test_the_master_behind_sentinels_hangs_and_comes_back(
    doomed_sentinels: SentinelServers, start_engine: StartEngine
) -> None:
    """SIGSTOP: connections stay and nobody answers. SIGCONT: it believes to be the master still."""
    async with under_load_on(doomed_sentinels.url, start_engine) as (_, load):
        master = await doomed_sentinels.master()
        os.kill(doomed_sentinels.nodes[master].pid, signal.SIGSTOP)
        try:
            await doomed_sentinels.failed_over(master)
            await more(load)
        finally:
            os.kill(doomed_sentinels.nodes[master].pid, signal.SIGCONT)
        await more(load)
