"""Reads the shared state directly when everything should have ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.inspect import pool_depth, texts
from ..wire.event import END, Ending, Event, read_log_entry
from ..wire.keys import PoolKeys
from ..wire.states import EngineState, Outcome, RequestState
from .comparison import Flaw
from .ledger import Ledger
from .plan import MAX_ATTEMPTS, POOL
from .transcript import Transcript

LOOK_EVERY_S = 0.1
_BATCH = 200
"""Requests read in one round trip."""


@dataclass
class Aftermath:
    """What the pool still holds."""

    accepted: int = 0
    """Requests that have a record."""
    outcomes: Counter[str] = field(default_factory=Counter[str])
    rerun: int = 0
    """Requests that took more than one attempt."""
    worn_out: set[str] = field(default_factory=set[str])
    """Requests that had as many failures, or lost as many workers, as one may have."""
    stuck: set[str] = field(default_factory=set[str])
    """Requests that have not ended."""
    lost: set[str] = field(default_factory=set[str])
    """Requests that a client was told are accepted, and of which there is no record."""
    reservations: list[str] = field(default_factory=list[str])
    """Places on engines that are still held."""
    left_over: list[str] = field(default_factory=list[str])
    """What else should not be there, in words."""
    flaws: Counter[Flaw] = field(default_factory=Counter[Flaw])
    """Of the answers as they stand in the output logs, those that nobody read to the end among them."""


async def wait_until_settled(store: Store, within_s: float) -> bool:
    """Wait until nothing waits, runs or is reserved; False: it was not so within that time."""
    keys = store.keys.pool(POOL)
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    if not await _left_over(store, keys) and not await _reservations(store, keys):
                        return True
                except (RedisError, OSError):
                    pass  # it has been started again just now
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        return False


async def read_aftermath(store: Store, ledger: Ledger) -> Aftermath:
    """Read everything that the pool keeps, and compare it with what was asked."""
    keys = store.keys.pool(POOL)
    found = Aftermath(reservations=await _reservations(store, keys), left_over=await _left_over(store, keys))
    start = len(keys.record(""))
    server = await store.node_of(keys.record(""))
    names = [name.decode()[start:] async for name in server.scan_iter(match=f"{keys.record('')}*", count=1000)]
    ids = sorted(name for name in names if ":" not in name)
    found.accepted = len(ids)
    found.lost = {asked.request_id for asked in ledger.asked.values() if asked.accepted} - set(ids)
    for at in range(0, len(ids), _BATCH):
        await _read_requests(store, keys, ids[at : at + _BATCH], ledger, found)
    counters = (await pool_depth(store, POOL)).counters
    ended = sum(counters.get(outcome, 0) for outcome in Outcome)
    if not counters.get("accepted", 0) == found.accepted == ended + len(found.stuck):
        counted = f"{counters.get('accepted', 0)} were counted as accepted, {ended} as ended"
        found.left_over.append(f"{counted}; there are {found.accepted} records")
    return found


async def _read_requests(store: Store, keys: PoolKeys, ids: list[str], ledger: Ledger, found: Aftermath) -> None:
    pipe = store.commands.pipeline(transaction=False)
    for request_id in ids:
        pipe.hmget(keys.record(request_id), "state", "outcome", "attempt", "engine", "failures", "lapses")
        pipe.xrange(keys.output(request_id))
    answers = await pipe.execute()
    for request_id, record, entries in zip(ids, answers[::2], answers[1::2], strict=True):
        state, outcome, attempt, engine, failures, lapses = record
        if state != RequestState.FINISHED.encode():
            found.stuck.add(request_id)
            continue
        found.outcomes[outcome.decode()] += 1
        found.rerun += int(attempt or 0) > 1
        if max(int(failures or 0), int(lapses or 0)) >= MAX_ATTEMPTS:
            found.worn_out.add(request_id)
        events = [read_log_entry(request_id, entry_id, fields) for entry_id, fields in entries]
        if stranger := _stranger(events, int(attempt or 0), (engine or b"").decode()):
            found.left_over.append(f"{request_id} was ended by {stranger}, which did not hold it")
        # What was refused under a fate unknown may have been accepted; nobody then knows its question.
        if asked := ledger.asked.get(request_id):
            kept = Transcript(asked.question)
            kept.take_events(events)
            found.flaws += kept.check()
            if not kept.ended:
                found.left_over.append(f"{request_id} has ended, and its output log has not")


def _stranger(events: Sequence[Event], attempt: int, engine: str) -> str:
    """Who wrote the end of a request without being the holder of its last attempt; empty: nobody did."""
    for event in events:
        if event.type == END:
            by = Ending.decode(event.payload).engine
            if event.attempt != attempt or (by and by != engine):
                return f"attempt {event.attempt} on {by or 'no engine'}"
    return ""


async def _reservations(store: Store, keys: PoolKeys) -> list[str]:
    held: list[str] = []
    for engine in sorted(await store.commands.smembers(keys.engines)):
        members = await store.commands.hkeys(keys.reservations(engine.decode()))
        held += [f"{member.decode()} on {engine.decode()}" for member in sorted(members)]
    return held


async def _left_over(store: Store, keys: PoolKeys) -> list[str]:
    """What is in the streams and in the waiting set, and rooms whose note is not what the reservations say."""
    streams = (*keys.intake, keys.freed)
    found = [f"{count} entries in {stream}" for stream in streams if (count := await store.commands.xlen(stream))]
    if count := await store.commands.zcard(keys.waiting):
        found.append(f"{count} requests in {keys.waiting}")
    for member in sorted(await store.commands.smembers(keys.engines)):
        engine = member.decode()
        if count := await store.commands.xlen(keys.assigned(engine)):
            found.append(f"{count} entries in {keys.assigned(engine)}")
        row = texts(await store.commands.hgetall(keys.engine(engine)))
        noted, free = await store.commands.zscore(keys.room, engine), _free(row)
        if noted != free:
            found.append(f"engine {engine} is {row.get('state')} and noted as {noted} free, not {free}")
    return found


def _free(row: Mapping[str, str]) -> int | None:
    """Places that an engine gives on which nothing runs; None: none, as it is not READY."""
    if row.get("state") != EngineState.READY:
        return None
    places = int(row["slots"]) + int(row.get("prefetch") or 0)
    return min(places, int(row.get("limit") or places))  # one that has just come back starts slowly
