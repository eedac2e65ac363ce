"""What the tests share about requests for which an engine is proposed as they are accepted."""

from __future__ import annotations

from typing import Any

from sagellm_control.store.steps.accept import (
    Accepted,
    AcceptedBatch,
    AcceptResult,
    Proposal,
)
from sagellm_control.store.steps.policy import set_policy
from sagellm_control.store.steps.rank import Charge
from sagellm_control.store.steps.rules import Rules

from ..clock import START_MS
from ..pool_driver import PoolDriver
from ..pool_state import read_state, violations

ON_E1 = Proposal(START_MS, "e1")
IN_LINE = Proposal(START_MS)
CHARGE = Charge(100.0, 10.0, 2.0)


def at_once(batch: AcceptedBatch | list[AcceptResult]) -> list[bool]:
    """For each request that was accepted: whether it is on its engine."""
    results = batch.results if isinstance(batch, AcceptedBatch) else batch
    assert all(isinstance(result, Accepted) for result in results), results
    return [result.assigned for result in results if isinstance(result, Accepted)]


async def sound(pool: PoolDriver) -> None:
    assert violations(await read_state(pool.store, pool.keys)) == []


async def in_line(pool: PoolDriver) -> list[str]:
    """The requests in the intake streams, the most urgent class first."""
    streams = [await pool.store.commands.xrange(stream) for stream in pool.keys.intake]
    return [fields[b"id"].decode() for entries in streams for _, fields in entries]


async def everything(pool: PoolDriver) -> dict[str, Any]:
    """All keys of a pool that hold anything. A request names its entry by stream and number instead of by time."""
    db = await pool.store.node_of(pool.keys.waiting)
    prefix = f"{pool.keys.prefix}:"
    found: dict[str, Any] = {}
    # By request too: entries that one script adds to two streams may have the same time, and so the same entry id.
    numbers: dict[tuple[bytes, bytes], str] = {}
    for key in sorted([key.decode() async for key in db.scan_iter(match=f"{prefix}*", count=1000)]):
        name = key.removeprefix(prefix)
        match (await db.type(key)).decode():
            case "hash":
                fields = await db.hgetall(key)
                found[name] = {field: value for field, value in fields.items() if field != b"pool"}
            case "zset":
                found[name] = dict(await db.zrange(key, 0, -1, withscores=True))
            case "stream":
                if entries := await db.xrange(key):
                    found[name] = [fields for _, fields in entries]
                    numbers |= {
                        (fields[b"id"], entry): f"{name} {n}"
                        for n, (entry, fields) in enumerate(entries)
                        if b"id" in fields
                    }
            case "set":
                found[name] = await db.smembers(key)
            case _:
                found[name] = await db.get(key)
        ttl = await db.pttl(key)
        assert ttl == -1, f"{name} has a TTL of {ttl}"
    for name, fields in found.items():
        if name.startswith("request:") and isinstance(fields, dict) and b"entry" in fields:
            fields[b"entry"] = numbers[name.removeprefix("request:").encode(), fields[b"entry"]]
    return found


async def fair_rules(pool: PoolDriver) -> Rules:
    return Rules(await set_policy(pool.store, pool.name, {"policy": "fair"}, {}), fair=True)


async def next_starts(pool: PoolDriver) -> dict[str, float]:
    """Flow -> next start, counted from the virtual time."""
    now = float(await pool.store.commands.get(pool.keys.virtual_time))
    found = await pool.store.commands.zrange(pool.keys.tenants, 0, -1, withscores=True)
    return {flow.decode(): round(start - now, 3) for flow, start in found}
