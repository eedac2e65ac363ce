"""take, and what goes with it: a scheduler reads what has arrived and where room came free, or waits for either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from ...wire.keys import SCHEDULER_GROUP, PoolKeys
from ...wire.request import SCHEDULING_FIELDS, is_count
from ..connect import Store
from ..script import Script
from ..stream_answer import stream_entries

_LEAVE = Script("leave")
_PREPARE = Script("prepare")

_NAMES = {name.encode(): name for name in ("id", *SCHEDULING_FIELDS, "engine", "free")}

FREED = 5
"""Index of the freed stream behind the five intake streams."""
LEAST_URGENT = FREED - 1


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class IntakeEntry:
    """An entry of an intake stream as it came: nothing in it has been checked."""

    level: int
    entry_id: str
    fields: dict[str, str]


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class FreedEntry:
    """An engine had places free while requests waited."""

    entry_id: str
    engine: str
    free: int


@dataclass(slots=True)
class Taken:
    """What one read gave."""

    arrivals: list[IntakeEntry] = field(default_factory=list[IntakeEntry])
    freed: list[FreedEntry] = field(default_factory=list[FreedEntry])

    def __bool__(self) -> bool:
        return bool(self.arrivals or self.freed)

    def enough_at(self, arrivals: int) -> int:
        """The level at which there are so many, from the most urgent down; the least urgent one if there are fewer."""
        return self.arrivals[arrivals - 1].level if len(self.arrivals) >= arrivals else LEAST_URGENT

    def add(self, stream: int, entry_id: bytes, pairs: Sequence[bytes] | dict[bytes, bytes] | None) -> None:
        """Sort one entry in; ``pairs`` is None for an entry that was deleted while it was pending."""
        if pairs is None:
            return
        if not isinstance(pairs, dict):
            pairs = dict(zip(pairs[::2], pairs[1::2], strict=False))
        # Nearly all names are known, and there are many.
        fields = {
            _NAMES.get(name) or name.decode(errors="replace"): text.decode(errors="replace")
            for name, text in pairs.items()
        }
        if stream == FREED:
            free = fields.get("free", "")
            count = int(free) if is_count(free) else 0
            self.freed.append(FreedEntry(entry_id.decode(), fields.get("engine", ""), count))
        else:
            self.arrivals.append(IntakeEntry(stream, entry_id.decode(), fields))


async def ensure_groups(store: Store, keys: PoolKeys) -> None:
    """Create the schedulers' group on the pool's streams, where it is missing."""
    await _PREPARE(store, [*keys.intake, keys.freed], ["0"])


async def take(store: Store, keys: PoolKeys, consumer: str, *, arrivals: int, down_to: int = LEAST_URGENT) -> Taken:
    """Read, without waiting, at most so many from each intake stream down to a level, and announcements.

    A plain command and no script: a reply that passes through Lua is converted twice, which costs the server more than
    the read itself. As the command counts per stream, several may give more than was asked for; whoever reads on reads
    down to ``Taken.enough_at`` only.
    """
    names = (*keys.intake[: down_to + 1], keys.freed)
    levels = (*range(down_to + 1), FREED)
    streams = dict.fromkeys(names, ">")

    async def read() -> Any:
        return await store.commands.xreadgroup(SCHEDULER_GROUP, consumer, streams, count=arrivals)

    try:
        answer = await read()
    except (ConnectionError, TimeoutError):
        answer = await read()  # what a lost answer held is reclaimed
    level = {name.encode(): level for name, level in zip(names, levels, strict=True)}
    taken = Taken()
    for name, entry_id, fields in stream_entries(answer):
        taken.add(level[name], entry_id, fields)
    return taken


async def wait_and_take(client: Any, keys: PoolKeys, consumer: str, *, block_ms: int) -> Taken:
    """Wait for something to be there, on a blocking client of one's own; empty after ``block_ms``."""
    streams = (*keys.intake, keys.freed)
    answer = await client.xreadgroup(SCHEDULER_GROUP, consumer, dict.fromkeys(streams, ">"), count=1, block=block_ms)
    taken = Taken()
    for name, entry_id, fields in stream_entries(answer):
        taken.add(streams.index(name.decode()), entry_id, fields)
    return taken


async def reclaim(store: Store, keys: PoolKeys, consumer: str, *, idle_ms: int) -> Taken:
    """Take over what schedulers that are gone had read and not settled; follows each cursor to its end."""
    taken = Taken()
    for stream, name in enumerate((*keys.intake, keys.freed)):
        cursor: bytes | str = "0-0"
        while True:
            answer = await store.commands.xautoclaim(
                name, SCHEDULER_GROUP, consumer, min_idle_time=idle_ms, start_id=cursor, count=100
            )
            cursor = answer[0]
            for entry_id, fields in answer[1]:
                taken.add(stream, entry_id, fields)
            if cursor in (b"0-0", "0-0"):
                break
    return taken


async def gone_consumers(store: Store, keys: PoolKeys, *, idle_ms: int) -> set[str]:
    """Consumers from whom no stream has heard for so long."""
    seen: dict[str, int] = {}
    for stream in (*keys.intake, keys.freed):
        try:
            consumers = await store.commands.xinfo_consumers(stream, SCHEDULER_GROUP)
        except ResponseError:
            continue  # no stream or no group yet, so nobody to forget
        for known in consumers:
            name = known["name"].decode(errors="replace")
            seen[name] = min(seen.get(name, known["idle"]), known["idle"])
    return {name for name, idle in seen.items() if idle >= idle_ms}


async def leave(store: Store, keys: PoolKeys, consumer: str) -> None:
    """Remove a consumer from each stream on which it has nothing pending; the rest is for ``reclaim``."""
    await _LEAVE(store, [*keys.intake, keys.freed], [consumer])
