"""The only module that hands requests to the scheduler's orders and placements within this process.

One line a model: those that wait under their ranks, and the engines that may take them. A scheduler does the same
with scripts on shared state.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ..scheduler.forecast import Forecast
from ..scheduler.open_engines import OpenEngines
from ..scheduler.order import Order, rank_of
from ..scheduler.placement import Placement
from ..scheduler.placement.base import Hold
from ..types import EngineInfo, EngineState, RequestType
from ..wire.engine import EngineRow, EngineSpeed
from ..wire.request import Arrival
from .board import instance_type, makes_text, makes_vectors

ANYTHING = ""
TEXT, VECTORS, PREFILL, DECODE = "text", "vectors", "prefill", "decode"
"""Abilities; they stand where a pool's rows have the names of LoRA adapters."""
DEEPEST_LOOK = 256
"""So many at the head may be unable to use what is free; beyond them nobody is looked for."""

UNKNOWN_SERVICE_S = 1.0
"""How long a request is taken to hold a place while nothing has been measured."""
INTERVAL_WEIGHT = 0.05
"""Of the newest interval in the moving average: it remembers some twenty."""
LONGEST_INTERVAL_S = 60.0


@dataclass(slots=True)
class Waiter:
    """One that waits."""

    arrival: Arrival
    granted: Callable[[str | None], None]
    """Called once: with the engine when it is its turn (the place is taken), or with None: no engine is left."""
    rank: float = 0.0
    number: int = field(default=0)

    @property
    def key(self) -> tuple[float, int]:
        return (self.rank, self.number)


class ModelQueue:
    """The line of one model."""

    def __init__(self, model: str, order: Order, placement: Placement) -> None:
        self.model = model
        self._order = order
        self._placement = placement
        self._engines = OpenEngines()
        self._infos: dict[str, EngineInfo] = {}
        self._rooms: dict[str, int] = {}
        self._abilities: Counter[str] = Counter()
        self._line: list[tuple[float, int, Waiter]] = []
        self._first = 0
        """What stands before it in the line has gone."""
        self._numbers = 0
        self._serving = False
        self._gave_back_at = 0.0
        self._interval_s: float | None = None
        self._look_again: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line) - self._first

    @property
    def empty(self) -> bool:
        """Whether there is neither an engine nor anybody who waits."""
        return not self._infos and not len(self)

    @property
    def places(self) -> int:
        """Places of all READY engines, taken or free."""
        return sum(self._rooms[name] for name, info in self._infos.items() if info.state == EngineState.READY)

    # Engines

    def add(self, info: EngineInfo, room: int) -> None:
        """An engine of this model; watched from now on."""
        abilities = _abilities(info)
        self._infos[info.engine_id] = info
        self._rooms[info.engine_id] = room
        self._abilities.update(abilities)
        self._engines.learn(
            [EngineRow(info.engine_id, "", info.endpoint, info.engine_kind, slots=room, models=abilities)]
        )
        info.watch(self._changed)
        self._follow(info)

    def remove(self, info: EngineInfo) -> None:
        """An engine goes."""
        info.watch(None)
        del self._infos[info.engine_id], self._rooms[info.engine_id]
        self._abilities.subtract(_abilities(info))
        self._engines.forget(info.engine_id)

    def _changed(self, info: EngineInfo, name: str) -> None:
        if name in ("state", "active_requests"):
            self._follow(info)

    def _follow(self, info: EngineInfo) -> None:
        if info.state == EngineState.READY:
            self._engines.set_places(info.engine_id, self._rooms[info.engine_id] - info.active_requests)
            self.serve()
        else:
            self._engines.close(info.engine_id)

    # Who may take what

    def ability(self, request_type: RequestType) -> str:
        """What an engine must be able to do; anything where all can, and where none says so."""
        wanted = VECTORS if request_type == RequestType.EMBEDDING else TEXT
        able = self._abilities[wanted]
        return wanted if 0 < able < len(self._infos) else ANYTHING

    def ready(self, ability: str) -> bool:
        """Whether a READY engine can do it."""
        return self._engines.answers_to(ability)

    @property
    def separated(self) -> bool:
        """Whether prefill and decode have READY engines of their own."""
        return (
            self._abilities[PREFILL] > 0
            and self._abilities[DECODE] > 0
            and self._engines.answers_to(PREFILL)
            and self._engines.answers_to(DECODE)
        )

    def others(self, excluded: frozenset[str]) -> bool:
        """Whether a READY engine is not among the excluded."""
        return any(info.state == EngineState.READY and name not in excluded for name, info in self._infos.items())

    def is_least_loaded(self, engine_id: str, arrival: Arrival) -> bool:
        """Whether no engine with room has fewer requests; asked before the place is taken."""
        least = next(self._engines.by_load(arrival), None)
        return least is None or (self._infos[engine_id].active_requests <= self._infos[least].active_requests)

    # Requests

    def choose(self, arrival: Arrival) -> str | None:
        """An engine for it now, if nobody waits; the place is not taken yet."""
        if len(self):
            return None
        return self._chosen(arrival, arrival.arrived_ms)

    def take(self, engine_id: str) -> None:
        """Take a place."""
        fields = self._infos[engine_id].__dict__  # past the watcher: this is no news
        fields["active_requests"] += 1
        self._engines.take(engine_id)

    def give_back(self, info: EngineInfo) -> None:
        """Give a place back, also of an engine that has gone meanwhile."""
        fields = info.__dict__
        fields["active_requests"] = max(0, fields["active_requests"] - 1)
        if self._infos.get(info.engine_id) is info:
            self._engines.give_back(info.engine_id)
            if len(self):
                self._measure()
                self.serve()

    def wait(self, waiter: Waiter) -> None:
        """Stand in line; granted at once if it is its turn."""
        self._numbers += 1
        waiter.rank = rank_of(self._order, waiter.arrival, forecast_of(waiter.arrival))
        waiter.number = self._numbers
        entry = (*waiter.key, waiter)
        self._line.insert(bisect_left(self._line, entry[:2], self._first, key=_key), entry)
        self.serve()

    def leave(self, waiter: Waiter) -> None:
        """Stand in line no more."""
        at = self._index(waiter)
        if at is not None:
            del self._line[at]

    def position(self, waiter: Waiter) -> int:
        """Its place in line, from 1; 0: it does not wait."""
        at = self._index(waiter)
        return 0 if at is None else at - self._first + 1

    def wait_ms(self, position: int) -> float:
        """Estimated wait of who has this place in line: at the rate at which places have come free lately."""
        interval_s = self._interval_s if self._interval_s is not None else UNKNOWN_SERVICE_S / max(1, self.places)
        return position * interval_s * 1000

    def dismiss(self) -> None:
        """No engine is left: nobody waits any more."""
        line, self._line, self._first = self._line[self._first :], [], 0
        for _, _, waiter in line:
            waiter.granted(None)

    def serve(self) -> None:
        """Give out places while there are any, in the order of the ranks."""
        if self._serving:
            return
        self._serving = True
        try:
            at = self._first
            while self._engines.places > 0 and at < min(len(self._line), self._first + DEEPEST_LOOK):
                waiter = self._line[at][2]
                engine_id = self._chosen(waiter.arrival, time.time() * 1000)
                if engine_id is None:
                    at += 1
                    continue
                self.take(engine_id)
                if at == self._first:
                    self._pop_first()
                    at = self._first
                else:
                    del self._line[at]
                waiter.granted(engine_id)
        finally:
            self._serving = False

    def _chosen(self, arrival: Arrival, now_ms: float) -> str | None:
        choice = self._placement.choose(arrival, forecast_of(arrival), self._engines, now_ms)
        if not isinstance(choice, Hold):
            return choice
        if self._look_again is None:
            delay_s = max(0.001, (choice.until_ms - now_ms) / 1000)
            self._look_again = asyncio.get_running_loop().call_later(delay_s, self._hold_over)
        return None

    def _hold_over(self) -> None:
        self._look_again = None
        self.serve()

    def _measure(self) -> None:
        now = time.monotonic()
        interval_s = now - self._gave_back_at
        self._gave_back_at = now
        if interval_s < LONGEST_INTERVAL_S:
            before = interval_s if self._interval_s is None else self._interval_s
            self._interval_s = before + (interval_s - before) * INTERVAL_WEIGHT

    def _pop_first(self) -> None:
        self._line[self._first] = _GONE
        self._first += 1
        if self._first > 64 and self._first * 2 > len(self._line):
            del self._line[: self._first]
            self._first = 0

    def _index(self, waiter: Waiter) -> int | None:
        at = bisect_left(self._line, waiter.key, self._first, key=_key)
        return at if at < len(self._line) and self._line[at][2] is waiter else None


TYPICAL = EngineSpeed()


def forecast_of(arrival: Arrival) -> Forecast:
    """What is expected of a request on an engine of the usual speed."""
    prompt, output = arrival.prompt_tokens, arrival.max_tokens
    return Forecast(prompt, output, prompt / TYPICAL.prefill_tps * 1000, output * TYPICAL.step_ms)


def _key(entry: tuple[float, int, Waiter]) -> tuple[float, int]:
    return entry[:2]


_GONE = (float("-inf"), 0, Waiter(Arrival("", 2, 0.0), lambda _engine: None))  # pyright: ignore[reportArgumentType]


def _abilities(info: EngineInfo) -> tuple[str, ...]:
    kind = instance_type(info)
    abilities = [TEXT] if makes_text(info) else []
    if makes_vectors(info):
        abilities.append(VECTORS)
    if kind == "prefilling":
        abilities.append(PREFILL)
    if kind in ("decoding", "hybrid", "general"):
        abilities.append(DECODE)
    return tuple(abilities)
