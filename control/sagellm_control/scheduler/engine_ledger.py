"""What a scheduler believes about the engines of a pool, and how the belief is kept up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product

from ..wire.engine import EngineRow
from ..wire.request import Arrival
from ..wire.states import Stage
from .demand import ANY, Demand, is_separated, meets
from .engine_index import EngineIndex
from .engine_load import EngineLoad, EngineRoom, Reservation
from .forecast import Forecast
from .openings import Openings
from .prefix_index import PrefixIndex
from .recent_work import RecentWork


class EngineLedger:
    """The READY engines and their room.

    Open is an engine that has a free place and whose pace lets it take a request now. One that its pace closed opens
    by time: whoever schedules calls ``open_due`` at the start of a round and wakes at ``next_opening_ms``. Whether
    a KV cache has room depends on the request (``EngineLoad.fits``).
    """

    def __init__(self, prefixes: PrefixIndex | None = None) -> None:
        self.prefixes = PrefixIndex() if prefixes is None else prefixes
        self._rows: dict[str, EngineRow] = {}
        self._loads: dict[str, EngineLoad] = {}
        self._indexes: dict[Demand, EngineIndex] = {ANY: EngineIndex()}
        self._kinds, self._parts, self._taken_kinds = {""}, {""}, set[tuple[str, ...]]()
        self.separated, self.kinds_matter = False, False
        """Whether the pool has had engines that take only one of the two stages; only some of the kinds of request."""
        self._takes_all = False
        self._openings = Openings()
        self._recent = RecentWork()
        self._budgets, self._now_ms = 0, 0.0
        self.places, self.requests = 0, 0
        """Free places on all open engines, and requests on all READY ones."""

    @property
    def ready(self) -> int:
        """READY engines."""
        return len(self._loads)

    @property
    def open(self) -> int:
        """READY engines that take a request now."""
        return len(self._indexes[ANY].by_turn)

    @property
    def usual_tps(self) -> float:
        """Prompt tokens a second of the mean READY engine."""
        return self._indexes[ANY].speeds.mean

    @property
    def known(self) -> Collection[str]:
        """The engines whose row has been read."""
        return self._rows.keys()

    def knows_who_takes(self, kind: str) -> bool:
        """Whether an engine whose row has been read takes such requests, READY or not."""
        return self._takes_all or not kind or any(kind in kinds for kinds in self._taken_kinds)

    def load_of(self, engine: str) -> EngineLoad | None:
        """What is believed of a READY engine; to be read, not written."""
        return self._loads.get(engine)

    def loads(self) -> Iterable[EngineLoad]:
        """Of all READY engines: for people and metrics, never for a choice."""
        return self._loads.values()

    def learn(self, rows: Iterable[EngineRow]) -> None:
        """Take over rows as they were just read."""
        for row in rows:
            load = self._loads.get(row.engine_id)
            if load is not None and load.row == row:
                continue
            self._close(row.engine_id)
            self._rows[row.engine_id] = row
            self.separated = self.separated or is_separated(row)
            self.prefixes.set_capacity(row.engine_id, row.kv_tokens)
            self._taken_kinds.add(row.kinds)
            self._takes_all = self._takes_all or not row.kinds
            # Where all are alike, each takes what comes, or says why not; those of a pair cannot.
            self.kinds_matter = self.kinds_matter or row.is_paired or len(self._taken_kinds) > 1
            if self.kinds_matter:
                self._kinds.update(*self._taken_kinds)
            if load is not None:
                load.row, load.places = row, row.places
                self._add(load)

    def refresh(self, room: Mapping[str, int | EngineRoom]) -> None:
        """Take over the room of all READY engines as it was just read."""
        for engine in self._loads.keys() - room.keys():
            self.close(engine)
        for engine, told in room.items():
            if isinstance(told, EngineRoom):
                self.set_room(engine, told)
            else:
                self.set_places(engine, told)

    def set_room(self, engine: str, room: EngineRoom) -> None:
        """The engine's room, as the store has it. One whose row is not known yet is left out until it is."""
        load = self._loads.get(engine)
        if load is None:
            self.set_places(engine, room.free)
            if (load := self._loads.get(engine)) is None:
                return
        elif load.free == room.free and room.kv_held is None and room.paced_until_ms is None:
            return  # as expected, which is the rule
        self._set_free(load, room.free)
        if room.kv_held is not None:
            load.kv_held, load.kv_guessed = room.kv_held, False
        if room.paced_until_ms is not None:
            load.paced_until_ms = room.paced_until_ms
        self._sort_in(load)

    def set_places(self, engine: str, free: int) -> None:
        """The engine has so many free places. Its KV tokens and its pace stay as last known."""
        load = self._loads.get(engine)
        if load is None:
            row = self._rows.get(engine)
            if row is not None:
                self._add(EngineLoad(row, free))
            return
        if load.free != free:
            self._set_free(load, free)
            self._sort_in(load)

    def _set_free(self, load: EngineLoad, free: int) -> None:
        # Written out: with each request it runs twice.
        whole, before = load.places, load.free
        had, has = (whole - before if before < whole else 0), (whole - free if free < whole else 0)
        self.requests += has - had
        if load.open:
            self.places += (free if free > 0 else 0) - (before if before > 0 else 0)
        load.free = free
        if has < had and load.kv_held:
            load.kv_held *= has / had  # until the store says which of them have gone
            load.kv_guessed = True

    def take(self, engine: str) -> None:
        """One place fewer, and the engine's turn is over."""
        load = self._loads[engine]
        self.set_places(engine, load.free - 1)
        for index in self._indexes_of(load.row):
            index.end_turn(engine)

    def reserve(self, engine: str, request: Arrival, forecast: Forecast, now_ms: float) -> Reservation:
        """Take a place, KV tokens and pace for this request; the engine counts as having its prompt cached."""
        load = self._loads[engine]
        uncached = self.uncached_tokens(engine, request, forecast)
        taken = Reservation(engine, load.kv_need(forecast), uncached)
        self._now_ms = now_ms
        load.reserve(taken.kv_tokens, uncached, now_ms)
        taken.first_token_ms = load.prefill_until_ms + load.step_ms()
        taken.prompt_ms = self._recent.hand(load, request, forecast, now_ms)
        if request.prefix:
            taken.new_blocks = self.prefixes.note(engine, request.prefix)
        if self._openings.kept:
            self.release_kept(request.id)
        self.take(engine)
        return taken

    def give_back(self, taken: str | Reservation) -> None:
        """What was taken was not used."""
        engine = taken if isinstance(taken, str) else taken.engine
        if (load := self._loads.get(engine)) is None:
            return
        if isinstance(taken, Reservation):
            load.release(taken.kv_tokens, taken.uncached_tokens)
            self._recent.add(load, -taken.prompt_ms, self._now_ms)
            self.prefixes.take_back(engine, taken.new_blocks)
        held = load.kv_held
        self.set_places(engine, load.free + 1)
        if isinstance(taken, Reservation):
            load.kv_held = held
            self._sort_in(load)

    def close(self, engine: str) -> None:
        """The engine takes nothing any more, and what it had cached may be lost."""
        self._close(engine)
        self._openings.kept.pop(engine, None)

    def forget(self, engine: str) -> None:
        """The engine has gone, and its row with it."""
        self.close(engine)
        self._rows.pop(engine, None)
        self.prefixes.forget(engine)

    def cached_tokens(self, engine: str, request: Arrival, prompt_tokens: float, depth: int | None = None) -> float:
        """How much of the prompt the engine has, as far as its placements tell. The last block never counts as whole:
        an engine always prefills at least the last token."""
        if not request.prefix:
            return 0.0
        if depth is None:
            depth = self.prefixes.depth(engine, request.prefix)
        return max(0.0, min(depth / len(request.prefix) * prompt_tokens, prompt_tokens - 1))

    def uncached_tokens(self, engine: str, request: Arrival, forecast: Forecast, depth: int | None = None) -> float:
        """How much of the prompt the engine has to prefill."""
        only_answers = self.separated and (load := self._loads.get(engine)) and load.row.only_answers
        if only_answers or request.stage == Stage.DECODE:
            return 0.0
        prompt_tokens = forecast.prompt_tokens or request.prompt_tokens
        if not request.prefix:
            return prompt_tokens
        return prompt_tokens - self.cached_tokens(engine, request, prompt_tokens, depth)

    # Engines that open by time.

    def open_due(self, now_ms: float) -> int:
        """Open the engines whose time has come; how many there were."""
        self._now_ms = now_ms
        opened = 0
        for engine in self._openings.due(now_ms):
            load = self._loads.get(engine)
            if load is not None and not load.open:
                self._sort_in(load)
                opened += load.open
        return opened

    @property
    def next_opening_ms(self) -> float | None:
        """When the next engine opens by time; None: none that is known of does."""
        return self._openings.next_ms(self._loads)

    def keep_free(self, engine: str, request_id: str, until_ms: float) -> None:
        """Nobody else gets this engine until the request has, or until this time (it may have been cancelled)."""
        self._openings.keep(engine, request_id, until_ms)
        if load := self._loads.get(engine):
            self._sort_in(load)

    def release_kept(self, request_id: str) -> None:
        """The request does not need what was kept for it."""
        for engine in list(self._openings.engines_for(request_id)):
            del self._openings.kept[engine]
            if load := self._loads.get(engine):
                self._sort_in(load)

    @property
    def keeps_any(self) -> bool:
        """Whether an engine is kept free for anybody."""
        return bool(self._openings.kept)

    def kept_for(self, request_id: str) -> str | None:
        """The engine that is kept free for the request."""
        return next(self._openings.engines_for(request_id), None)

    def _add(self, load: EngineLoad) -> None:
        self._loads[load.row.engine_id] = load
        self._count(load, 1)
        self._recent.join(load, self._now_ms)
        self._sort_in(load)

    def _close(self, engine: str) -> None:
        load = self._loads.pop(engine, None)
        if load is None:
            return
        self._count(load, -1)
        load.open = False
        self._recent.leave(load, self._now_ms)
        for index in self._indexes_of(load.row):
            index.remove(engine)

    def _count(self, load: EngineLoad, sign: int) -> None:
        self.requests += sign * load.requests
        self._budgets += sign * (load.row.kv_tokens > 0)
        if load.open:
            self.places += sign * max(0, load.free)

    def _sort_in(self, load: EngineLoad) -> None:
        engine = load.row.engine_id
        is_open = load.free > 0 and engine not in self._openings.kept
        if is_open and load.row.pace_tps > 0 and load.is_paced(self._now_ms):
            is_open = False
            self._openings.note(engine, load.paced_until_ms)
        if is_open != load.open:
            self.places += load.free if is_open else -max(0, load.free)
            load.open = is_open
        if len(self._indexes) == 1:
            self._indexes[ANY].update(engine, load)
            return
        for index in self._indexes_of(load.row):
            index.update(engine, load)

    def _indexes_of(self, row: EngineRow) -> Iterator[EngineIndex]:
        yield self._indexes[ANY]
        if len(self._indexes) > 1:
            for demand in product(("", *row.models), self._kinds, self._parts):
                if demand != ANY and (index := self._indexes.get(demand)) and meets(row, demand):
                    yield index
