"""Keeps a scheduler's snapshot of the engines, and what is expected of them, close to what the store says."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace

from ..store.connect import Store
from ..store.inspect import engine_bounds, engine_rows, room
from ..store.steps.room_note import RoomAfter, RoomNote
from ..wire.keys import read_name
from .engine_load import EngineRoom
from .estimates import Estimates
from .open_engines import OpenEngines
from .server_clock import ServerClock

ROWS_KEPT_S = 10.0
"""Engine rows are read again so often; what an engine is changes seldom, and how fast, slowly."""
PACED_ROWS_KEPT_S = 1.0
"""The same where engines have a pace: it is what their workers learn."""
OBJECTIVES_KEPT = 30
"""Samples of the counters of objectives met and missed: half a minute, at a sweep a second."""
LENGTHS_A_SECOND = 1000
"""Means of output lengths read at most, on the average: of very many, each changes slowly."""
ABSENT_KEPT_S = 600.0
"""What is known of an engine that is not READY is kept for so long."""
MOST_PLACED = 2000
"""Entries of the placements stream read at once."""


class EngineWatch:
    """The engines of a pool, as a scheduler sees them."""

    def __init__(self, store: Store, pool: str) -> None:
        self.engines = OpenEngines()
        self.estimates = Estimates()
        self.clock = ServerClock(store, pool)
        self.rows_read_at = float("-inf")
        self.placements_read_at = float("-inf")
        """Both on the monotonic clock."""
        self._store = store
        self.pool = pool
        self._keys = store.keys.pool(pool)
        self._placed_up_to: bytes | None = None
        self._objectives: deque[tuple[int, int]] = deque(maxlen=OBJECTIVES_KEPT)
        self._lengths_due_at = float("-inf")
        self._absent: dict[str, float] = {}
        """Engines that are not READY -> since when."""

    async def read(self, *, all_rows: bool = False) -> None:
        """Take over the room of all engines, and the rows of those that were not READY before (or of all)."""
        notes = await room(self._store, self.pool)
        wanted = [engine for engine, note in notes.items() if all_rows or self._row_is_old(engine, note)]
        rows = await engine_rows(self._store, self.pool, wanted)
        self.engines.learn(rows)
        held = {row.engine_id: row.kv_held for row in rows if row.kv_tokens}
        if not all_rows:
            held |= await self._read_bounds([engine for engine, note in notes.items() if note.free > 0])
        if all_rows:
            self.rows_read_at = time.monotonic()
            self._forget_absent(notes.keys())
        self.engines.refresh({engine: self._room(engine, note, held.get(engine)) for engine, note in notes.items()})

    async def _read_bounds(self, engines: Sequence[str]) -> dict[str, int]:
        # Where places came free, what is left of the KV cache is a guess; and a limit changes with its worker's health,
        # and with it how many requests the free places stand for. Of all others there is nothing to ask.
        loads = [load for engine in engines if (load := self.engines.load_of(engine))]
        bounded = [load.row.engine_id for load in loads if load.kv_guessed or load.row.limit is not None]
        held: dict[str, int] = {}
        for engine, (kv_held, limit) in (await engine_bounds(self._store, self.pool, bounded)).items():
            if load := self.engines.load_of(engine):
                if load.row.kv_tokens:
                    held[engine] = kv_held
                if load.row.limit != limit:
                    self.engines.learn([replace(load.row, limit=limit)])
        return held

    async def sweep(self) -> None:
        """Read everything that changes by itself."""
        await self.clock.set()
        paced = any(load.row.pace_tps for load in self.engines.loads())
        kept_s = PACED_ROWS_KEPT_S if paced else ROWS_KEPT_S
        # A tenth less, so that a sweep a second is not just too early each second time.
        await self.read(all_rows=time.monotonic() - self.rows_read_at >= 0.9 * kept_s)
        if time.monotonic() >= self._lengths_due_at:
            lengths: dict[bytes, bytes] = await self._store.commands.hgetall(self._keys.lengths)
            self._lengths_due_at = time.monotonic() + len(lengths) / LENGTHS_A_SECOND
            self.estimates.learn(lengths)
        self.estimates.learn_loads(self.engines.loads())

    async def follow_placements(self) -> None:
        """Learn from the log which engines were given which prefixes, by any scheduler."""
        while await self._follow_placements() == MOST_PLACED:
            pass

    async def _follow_placements(self) -> int:
        self.placements_read_at = time.monotonic()
        if self._placed_up_to is None:
            entries = (await self._store.commands.xrevrange(self._keys.placements, count=MOST_PLACED))[::-1]
        else:
            entries = await self._store.commands.xrange(
                self._keys.placements, min=b"(" + self._placed_up_to, count=MOST_PLACED
            )
        for entry_id, fields in entries:
            self._placed_up_to = entry_id
            for placed in fields.values():
                engine, *prefix = read_name(placed).split(" ")
                self.engines.prefixes.note(engine, prefix)
        if not entries and self._placed_up_to is None:
            self._placed_up_to = b"0-0"
        return len(entries)

    def missed_share(self, met: int, missed: int) -> float:
        """Share of the objectives missed since the oldest sample that is kept; these counters are the newest."""
        self._objectives.append((met, missed))
        met_before, missed_before = self._objectives[0]
        ended = met + missed - met_before - missed_before
        return max(0.0, (missed - missed_before) / ended) if ended > 0 else 0.0

    def take_over(self, after: RoomAfter) -> None:
        """What a commit left."""
        for engine, note in after.notes.items():
            self.engines.set_room(engine, self._room(engine, note))

    def _forget_absent(self, ready: Collection[str]) -> None:
        # One that was not READY for so long has another cache when it is, and with autoscaling it never is again.
        now = time.monotonic()
        self._absent = {name: self._absent.get(name, now) for name in self.engines.known if name not in ready}
        for name, since in list(self._absent.items()):
            if now - since >= ABSENT_KEPT_S:
                self.engines.forget(name)
                del self._absent[name]

    def _row_is_old(self, engine: str, note: RoomNote) -> bool:
        # It is new, or may have come back as another one; or it has been given a pace since.
        load = self.engines.load_of(engine)
        return load is None or (note.paced_until_ms is not None and not load.row.pace_tps)

    def _room(self, engine: str, note: RoomNote, kv_held: int | None = None) -> EngineRoom:
        free = note.free
        if note.kv_held is None and note.paced_until_ms is not None:
            # From the note in the room, which tells of a paced engine only when it opens.
            load = self.engines.load_of(engine)
            free = max(1, load.free) if load else 1
        return EngineRoom(free, note.kv_held if kv_held is None else kv_held, note.paced_until_ms)
