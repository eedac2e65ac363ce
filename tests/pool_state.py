"""A pool as it stands in Redis, read at one moment, and what must hold of it at any moment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sagellm_control.store.connect import Store
from sagellm_control.wire.keys import PoolKeys
from sagellm_control.wire.states import EngineState, RequestState

Fields = dict[str, str]


@dataclass
class EngineFacts:
    """One engine: its row, what it holds and what it is to run."""

    row: Fields
    kv: dict[str, int]
    """The requests that hold a place on it, and the KV tokens of each."""
    work: list[Fields]
    """Entries of its assigned stream, without the notices of cancellation; ``entry_id`` is among the fields."""

    @property
    def reservations(self) -> set[str]:
        return set(self.kv)

    @property
    def capacity(self) -> int:
        return int(self.row.get("slots", 0)) + int(self.row.get("prefetch", 0))


@dataclass
class PoolState:
    """Everything that a pool keeps."""

    records: dict[str, Fields] = field(default_factory=dict[str, Fields])
    intake: Counter[str] = field(default_factory=Counter[str])
    waiting: dict[str, float] = field(default_factory=dict[str, float])
    room: dict[str, int] = field(default_factory=dict[str, int])
    engines: dict[str, EngineFacts] = field(default_factory=dict[str, EngineFacts])
    endings: dict[str, int] = field(default_factory=dict[str, int])
    """Request -> number of ``end`` events in its output log."""
    outputs: dict[str, list[tuple[str, str]]] = field(default_factory=dict[str, list[tuple[str, str]]])
    """Request -> position and type of each event in its output log."""
    announced: int = 0
    """Announcements of free room that no scheduler has settled."""
    counters: dict[str, int] = field(default_factory=dict[str, int])


async def read_state(store: Store, keys: PoolKeys) -> PoolState:
    """Read it all. Only for tests: it scans, and it is one moment only while nothing else writes."""
    db = await store.node_of(keys.waiting)
    state = PoolState()
    prefix = keys.record("")
    names = [key.decode() async for key in db.scan_iter(match=f"{prefix}*", count=1000)]
    request_ids = sorted(name[len(prefix) :] for name in names if ":" not in name[len(prefix) :])
    engine_ids = sorted(name.decode() for name in await db.smembers(keys.engines))
    pipe = db.pipeline(transaction=True)
    for request_id in request_ids:
        pipe.hgetall(keys.record(request_id))
        pipe.xrange(keys.output(request_id))
    for engine in engine_ids:
        pipe.hgetall(keys.engine(engine))
        pipe.hgetall(keys.reservations(engine))
        pipe.xrange(keys.assigned(engine))
    for stream in keys.intake:
        pipe.xrange(stream)
    pipe.zrange(keys.waiting, 0, -1, withscores=True)
    pipe.zrange(keys.room, 0, -1, withscores=True)
    pipe.hgetall(keys.counters)
    pipe.xlen(keys.freed)
    answers = iter(await pipe.execute())
    for request_id in request_ids:
        state.records[request_id] = _texts(next(answers))
        log = [(position.decode(), fields[b"type"].decode()) for position, fields in next(answers)]
        state.outputs[request_id] = log
        state.endings[request_id] = sum(kind == "end" for _, kind in log)
    for engine in engine_ids:
        row, members, entries = _texts(next(answers)), next(answers), next(answers)
        work = [_texts(fields) | {"entry_id": entry.decode()} for entry, fields in entries if b"cancel" not in fields]
        state.engines[engine] = EngineFacts(row, {m.decode(): int(kv) for m, kv in members.items()}, work)
    for _ in keys.intake:
        state.intake.update(fields[b"id"].decode() for _, fields in next(answers) if b"id" in fields)
    state.waiting = {m.decode(): score for m, score in next(answers)}
    state.room = {m.decode(): int(score) for m, score in next(answers)}
    state.counters = {name: int(count) for name, count in _texts(next(answers)).items()}
    state.announced = next(answers)
    return state


def violations(state: PoolState) -> list[str]:
    """What is wrong with the pool: of invariants 1, 2, 5 and 7, what one moment can show. Empty: nothing is."""
    return [
        *not_in_one_place(state),
        *not_one_ending(state),
        *over_capacity(state),
        *over_kv_budget(state),
        *leaking_room(state),
    ]


def not_in_one_place(state: PoolState) -> list[str]:
    """Invariant 1: intake stream, waiting set, one engine's assigned stream or terminal state."""
    found: list[str] = []
    for request_id, record in state.records.items():
        places = [RequestState.QUEUED] * state.intake[request_id]
        places += [RequestState.WAITING] * (request_id in state.waiting)
        for name, engine in state.engines.items():
            entries = [work for work in engine.work if work["id"] == request_id]
            places += [RequestState.ASSIGNED] * len(entries)
            for work in entries:
                if record.get("engine") != name or record.get("entry") != work["entry_id"]:
                    found.append(f"{request_id}: its record does not point to its entry on {name}")
                if record.get("attempt") != work["attempt"]:
                    found.append(f"{request_id}: the entry on {name} is of attempt {work['attempt']}")
        where = RequestState(record["state"])
        expected = {RequestState.RUNNING: [RequestState.ASSIGNED], RequestState.FINISHED: []}.get(where, [where])
        if places != expected:
            found.append(f"{request_id}: its record says {where}, it is in {places or 'no place'}")
    found += [f"{r}: waits without a record" for r in state.waiting.keys() - state.records.keys()]
    return found


def not_one_ending(state: PoolState) -> list[str]:
    """Invariant 2: exactly one terminal outcome for what has finished, none for what has not."""
    found: list[str] = []
    for request_id, record in state.records.items():
        finished = record["state"] == RequestState.FINISHED
        if state.endings[request_id] != int(finished) or ("outcome" in record) != finished:
            found.append(
                f"{request_id}: {record['state']} with {state.endings[request_id]} end events, "
                f"outcome {record.get('outcome')}"
            )
    return found


def over_capacity(state: PoolState) -> list[str]:
    """Invariant 5: no engine holds more than its slots (and its prefetch)."""
    return [
        f"{name}: holds {len(engine.reservations)} of {engine.capacity}"
        for name, engine in state.engines.items()
        if len(engine.reservations) > engine.capacity
    ]


def leaking_room(state: PoolState) -> list[str]:
    """Invariant 7: room in use is what requests own, and the room set is derived from it."""
    found: list[str] = []
    for name, engine in state.engines.items():
        owners = {
            request_id
            for request_id, record in state.records.items()
            if record.get("engine") == name and record["state"] in (RequestState.ASSIGNED, RequestState.RUNNING)
        }
        if engine.reservations != owners:
            found.append(f"{name}: reserved for {engine.reservations}, owned by {owners}")
        places = min(engine.capacity, int(engine.row.get("limit") or engine.capacity))
        free = places - len(engine.reservations) if engine.row.get("state") == EngineState.READY else None
        if state.room.get(name) not in notes_allowed(engine, free):
            found.append(f"{name}: noted as {state.room.get(name)} free, has {free}")
    return found


def notes_allowed(engine: EngineFacts, free: int | None) -> tuple[int | None, ...]:
    """What the room may say of an engine: its free places, or that its KV cache or its pace keeps it closed."""
    if not free or free < 0 or not engine.reservations:
        return (free,)
    budget = int(engine.row.get("kv_tokens") or 0)
    if budget and int(engine.row.get("kv_held") or 0) >= budget:
        return (0,)
    # A pace opens it by time, and the note is only written when somebody looks.
    until = float(engine.row.get("paced_until_ms") or 0)
    return (free, -math.ceil(until)) if float(engine.row.get("pace_tps") or 0) else (free,)


def over_kv_budget(state: PoolState) -> list[str]:
    """Invariant 5: no engine holds more KV tokens than its budget; and the sum is that of the reservations."""
    found: list[str] = []
    for name, engine in state.engines.items():
        budget, held = int(engine.row.get("kv_tokens") or 0), sum(engine.kv.values())
        if budget and len(engine.kv) > 1 and held > budget:
            found.append(f"{name}: {held} KV tokens are held of {budget}")
        if budget and int(engine.row.get("kv_held") or 0) != held:
            found.append(f"{name}: {engine.row.get('kv_held')} KV tokens are noted, {held} are held")
    return found


def misplaced(state: PoolState) -> list[str]:
    """Invariant 6: who waits does so at its rank."""
    return [
        f"{request_id}: waits at {rank}, its rank is {state.records[request_id].get('rank')}"
        for request_id, rank in state.waiting.items()
        if request_id in state.records and float(state.records[request_id].get("rank", "nan")) != rank
    ]


def not_whole(before: PoolState, state: PoolState) -> list[str]:
    """Invariant 8: an output log only grows, at its end, and nothing comes behind the end."""
    found: list[str] = []
    for request_id, log in state.outputs.items():
        known = before.outputs.get(request_id, [])
        if log[: len(known)] != known:
            found.append(f"{request_id}: {known} was in its log, and it is {log} now")
        if any(kind == "end" for _, kind in log[:-1]):
            found.append(f"{request_id}: something comes behind its end: {log}")
    return found


def _texts(fields: Mapping[bytes, bytes]) -> Fields:
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
