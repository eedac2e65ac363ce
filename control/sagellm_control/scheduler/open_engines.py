"""The engines that have room, in every order that a placement may want to look at them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator

from ..wire.request import Arrival
from ..wire.states import Stage
from .demand import ANY, NOT_SEPARABLE, Demand, Part, meets
from .engine_index import EngineIndex
from .engine_ledger import EngineLedger
from .forecast import UNKNOWN, Forecast
from .ready_speeds import ReadySpeeds

MOST_LOOKS = 16
"""Engines with too little KV room that are passed over before the roomiest ones are asked."""
EXCLUDED_FOR_MS = 5000.0
"""For so long a request waits for others than the engine that has failed it last, if there are any: there it may go
better. Then that is one like any other: its worker decides whether it is fit for use, and attempts are bounded."""


class OpenEngines(EngineLedger):
    """A scheduler's snapshot, indexed so that a choice costs the same for 2 engines and for 2000.

    There is an index over all engines, and one for each demand (adapter, kind of request, stage) that was made, built
    when it first is. Every iterator here yields only engines that may take the request now (``can_take``).
    """

    def by_load(self, request: Arrival, forecast: Forecast = UNKNOWN) -> Iterator[str]:
        """Those with the fewest requests on them first; the longest unused among equals."""
        index = self._index(request)
        return self._able(request, forecast, index, index.shelves("requests", self._loads).ascending())

    def by_recent(self, request: Arrival, forecast: Forecast = UNKNOWN) -> Iterator[str]:
        """Those that were handed the least prompt work lately first (``RecentWork``)."""
        index = self._index(request)
        return self._able(request, forecast, index, index.shelves("recent", self._loads).ascending())

    def by_turn(self, request: Arrival, forecast: Forecast = UNKNOWN) -> Iterator[str]:
        """The one whose turn is longest ago first."""
        index = self._index(request)
        return self._able(request, forecast, index, index.by_turn)

    def by_drain(self, request: Arrival, forecast: Forecast = UNKNOWN) -> Iterator[str]:
        """Those that would soonest have finished what they hold, by their own speed, first."""
        index = self._index(request)
        return self._able(request, forecast, index, index.shelves("drain", self._loads).ascending())

    def by_step(self, request: Arrival, forecast: Forecast = UNKNOWN, *, most_ms: float = math.inf) -> Iterator[str]:
        """Of those that run something: the fullest first, of those whose decode step stays within ``most_ms``."""
        index = self._index(request)
        start = None if most_ms == math.inf else int(most_ms) - 1
        return self._able(request, forecast, index, index.shelves("step", self._loads).descending(start))

    def draw(self, request: Arrival, forecast: Forecast, number: int, most: int) -> Iterator[str]:
        """Up to ``most`` different ones, the first two of them wherever the number points to."""
        index = self._index(request)
        return self._able(request, forecast, index, index.draw(number, most))

    def on_ring(self, request: Arrival, key: str, most: int) -> Iterator[str]:
        """READY engines that may serve the request, open or not, in the order in which a key meets them."""
        index = self._index(request)
        yield from self._preferred(request, index, index.ring.walk(key, most + len(request.excluded)))

    def with_prefix(self, request: Arrival, most: int) -> list[tuple[str, int]]:
        """READY engines that may serve the request and have a beginning of its prompt, open or not, with the number
        of blocks; the longest first. None that has failed it: what it has cached is worth less than another engine."""
        if not request.prefix:
            return []
        ready = self._index(request).ready
        return [
            (engine, depth)
            for engine, depth in self.prefixes.holders(request.prefix, most + len(request.excluded))
            if engine in ready and engine not in request.excluded
        ]

    def can_take(self, engine: str, request: Arrival, forecast: Forecast = UNKNOWN) -> bool:
        """Whether the engine is open, answers to the request's model and kind, has KV room for it, and is not kept from
        it (``forbidden``)."""
        index = self._index(request)
        return (
            engine in index.by_turn and engine != self._forbidden(request, index) and self._loads[engine].fits(forecast)
        )

    def forbidden(self, request: Arrival) -> str | None:
        """The engine that must not have it now: the one that has failed it last, for a bounded time, unless there is no
        other; else None."""
        return self._forbidden(request, self._index(request)) if request.excluded else None

    def forbidden_until_ms(self, request: Arrival) -> float:
        """When that engine may have it; inf where there is none."""
        return math.inf if self.forbidden(request) is None else request.excluded_ms + EXCLUDED_FOR_MS

    def open_to(self, request: Arrival) -> int:
        """Open engines that answer to the request's model and kind."""
        return len(self._index(request).by_turn)

    def group(self, request: Arrival) -> Hashable:
        """The same for all requests of which the same engines are asked."""
        return self._index(request)

    @property
    def alike(self) -> bool:
        """Whether all engines are asked of all requests."""
        return len(self._indexes) == 1

    def fewest(self, request: Arrival) -> int:
        """Requests on the open engine that has the fewest; 0 where none is open."""
        return self._index(request).shelves("requests", self._loads).lowest or 0

    def mean_requests(self) -> float:
        """Requests for each READY engine."""
        return self.requests / max(1, len(self._loads))

    def roomiest(self, request: Arrival) -> str | None:
        """The open engine with the most KV room, whether the request fits there or not: the one to keep free for it."""
        index = self._index(request)
        return next(self._preferred(request, index, index.shelves("kv_free", self._loads).descending()), None)

    def kept(self, request: Arrival, forecast: Forecast) -> str | None:
        """The engine that is kept free for the request, once it fits there."""
        engine = self.kept_for(request.id) if self._openings.kept else None
        load = self._loads.get(engine) if engine else None
        if load is None or load.free <= 0 or load.is_paced(self._now_ms) or not load.fits(forecast):
            return None
        return engine

    @property
    def speeds_differ(self) -> bool:
        """Whether some engines are clearly faster than others, whoever may use them."""
        return self._indexes[ANY].speeds.differ

    def speeds_of(self, request: Arrival) -> ReadySpeeds:
        """Of the READY engines that may serve the request."""
        return self._index(request).speeds

    @property
    def bounded(self) -> bool:
        """Whether a READY engine has a KV budget."""
        return self._budgets > 0

    def answers_to(self, model: str) -> bool:
        """Whether a READY engine answers to this name."""
        return bool(self._index_for((model, "", "")).ready)

    def serves(self, request: Arrival) -> bool:
        """Whether a READY engine takes such a request, open or not."""
        return bool(self._index(request).ready)

    def takes_whole(self, request: Arrival) -> bool:
        """Whether a READY engine takes both stages of it."""
        return bool(self._index_for((request.model, "", Part.WHOLE)).ready)

    def part(self, request: Arrival) -> Part:
        """Which part of the request an engine is wanted for now.

        A prompt is read by a prefilling engine only while there is one that decodes; an engine that decodes in a pair
        gets a request only while there is one that reads prompts for it. Where nobody takes whole
        requests, any engine takes those that cannot be separated.
        """
        if not self.separated:
            return Part.ANY
        if request.stage == Stage.PREFILL:
            return Part.PREFILL
        if request.stage:
            return Part.DECODE
        if request.kind in NOT_SEPARABLE:
            return Part.WHOLE if self.takes_whole(request) else Part.ANY
        begins = self._index_for((request.model, "", Part.DECODE)).ready
        if self._index_for((request.model, "", Part.PREFILL)).ready:
            return Part.BEGIN_OR_PAIR if begins else Part.WHOLE_OR_PAIR
        return Part.BEGIN if begins else Part.WHOLE

    def _able(self, request: Arrival, forecast: Forecast, index: EngineIndex, engines: Iterable[str]) -> Iterator[str]:
        able = self._fitting(forecast, index, engines) if self._budgets else iter(engines)
        return self._preferred(request, index, able) if request.excluded else able

    def _fitting(self, forecast: Forecast, index: EngineIndex, engines: Iterable[str]) -> Iterator[str]:
        misses = 0
        for engine in engines:
            if self._loads[engine].fits(forecast):
                yield engine
            else:
                misses += 1
                if misses > MOST_LOOKS:
                    break
        else:
            return
        # So many have no KV room for it: ask those that have the most, and no further than there can be any.
        misses = 0
        for engine in index.shelves("kv_free", self._loads).descending():
            if self._loads[engine].fits(forecast):
                yield engine
            else:
                misses += 1
                if misses > MOST_LOOKS:
                    return

    def _preferred(self, request: Arrival, index: EngineIndex, engines: Iterable[str]) -> Iterator[str]:
        # One that failed it earlier may have recovered: it is asked rather than waiting for others to have room. The
        # number of attempts bounds that.
        forbidden = self._forbidden(request, index)
        failed: list[str] = []
        untried = False
        for engine in engines:
            if engine not in request.excluded:
                untried = True
                yield engine
            elif engine != forbidden:
                failed.append(engine)
        if not untried:
            yield from failed

    def _forbidden(self, request: Arrival, index: EngineIndex) -> str | None:
        # (Both ways: a server's clock that was set back keeps nobody waiting for as long as that.)
        if not request.excluded or abs(self._now_ms - request.excluded_ms) >= EXCLUDED_FOR_MS:
            return None
        last = request.excluded[-1]
        return last if any(engine != last for engine in index.ready) else None

    def _index(self, request: Arrival) -> EngineIndex:
        part = self.part(request)
        if not request.model and len(self._kinds) == 1 and not part:
            return self._indexes[ANY]
        # A kind that no engine names is one that only engines without a preference take.
        kind = request.kind if len(self._kinds) > 1 else ""
        return self._index_for((request.model, kind, part))

    def _index_for(self, demand: Demand) -> EngineIndex:
        index = self._indexes.get(demand)
        if index is None:
            index = self._indexes[demand] = EngineIndex()
            self._kinds.add(demand[1])
            self._parts.add(demand[2])
            for engine, load in self._loads.items():
                if meets(load.row, demand):
                    index.update(engine, load)
        return index
