"""The only module that hands requests to the scheduler's orders and placements within this process.

One line a model: those that wait under their ranks, and the engines that may take them. A scheduler does the same
with scripts on shared state.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from ..scheduler.engine_load import Reservation
from ..scheduler.lateness import Verdict
from ..scheduler.open_engines import OpenEngines
from ..scheduler.passing import may_pass
from ..scheduler.placement import Hold
from ..types import EngineInfo, EngineState, RequestType
from ..wire.engine import EngineRow
from ..wire.request import Arrival
from .board import instance_type, makes_text, makes_vectors
from .line import Line, Ticket
from .load import Misses
from .local_policy import LocalPolicy

ANYTHING = ""
TEXT, VECTORS, PREFILL, DECODE = "text", "embedding", "prefill", "decode"
"""The kinds of request that engines of one model tell apart."""
KEPT_FREE_MS = 2_000.0
"""An engine is kept free for a large request for so long; then it is looked at again whether that is still needed."""
DEEPEST_LOOK = 256
"""So many at the head may be unable to use what is free; beyond them nobody is looked for."""

UNKNOWN_SERVICE_S = 1.0
"""How long a request is taken to hold a place while nothing has been measured."""
INTERVAL_WEIGHT = 0.05
"""Of the newest interval in the moving average: it remembers some twenty."""
LONGEST_INTERVAL_S = 60.0


class ModelQueue:
    """The line of one model."""

    def __init__(self, model: str, policy: LocalPolicy, misses: Misses) -> None:
        self.model = model
        self._policy = policy
        self._misses = misses
        self._engines = OpenEngines()
        self._infos: dict[str, EngineInfo] = {}
        self._rooms: dict[str, int] = {}
        self._abilities: Counter[str] = Counter()
        self._line = Line()
        self._serving = False
        self._gave_back_at = 0.0
        self._interval_s: float | None = None
        self._look_again: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    @property
    def empty(self) -> bool:
        """Whether there is neither an engine nor anybody who waits."""
        return not self._infos and not len(self)

    @property
    def places(self) -> int:
        """Places of all READY engines, taken or free."""
        return sum(self._rooms[name] for name, info in self._infos.items() if info.state == EngineState.READY)

    # Engines

    def add(self, info: EngineInfo, room: int, kv_tokens: int) -> None:
        """An engine of this model; watched from now on. ``kv_tokens``: that its KV cache holds; 0: unknown."""
        abilities = _abilities(info)
        self._infos[info.engine_id] = info
        self._rooms[info.engine_id] = room
        self._abilities.update(abilities)
        row = EngineRow(
            info.engine_id, "", info.endpoint, info.engine_kind, room, models=(), kinds=abilities, kv_tokens=kv_tokens
        )
        self._engines.learn([row])
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
        return self._engines.answers_to("", ability)

    @property
    def separated(self) -> bool:
        """Whether prefill and decode have READY engines of their own."""
        return (
            self._abilities[PREFILL] > 0 and self._abilities[DECODE] > 0 and self.ready(PREFILL) and self.ready(DECODE)
        )

    def others(self, excluded: frozenset[str]) -> bool:
        """Whether a READY engine is not among the excluded."""
        return any(info.state == EngineState.READY and name not in excluded for name, info in self._infos.items())

    def is_least_loaded(self, engine_id: str, arrival: Arrival) -> bool:
        """Whether no engine with room has fewer requests; asked before the place is taken."""
        active = self._infos[engine_id].active_requests
        if not active:
            return True
        least = next(self._engines.by_load(arrival), None)
        return least is None or active <= self._infos[least].active_requests

    # Requests

    def ticket(self, arrival: Arrival) -> Ticket:
        """A request that wants a place."""
        return self._policy.ticket(arrival)

    def choose(self, ticket: Ticket) -> str | None:
        """An engine for it now, if nobody waits; the place is not taken yet."""
        if self._line:
            return None
        return self._chosen(ticket, ticket.arrival.arrived_ms)

    def take(self, engine_id: str, ticket: Ticket) -> None:
        """Take a place."""
        fields = self._infos[engine_id].__dict__  # past the watcher: this is no news
        fields["active_requests"] += 1
        if self._engines.bounded:
            taken = self._engines.reserve(engine_id, ticket.arrival, ticket.forecast, ticket.arrival.arrived_ms)
            ticket.kv_tokens = taken.kv_tokens
        else:
            self._engines.take(engine_id)
        self._policy.placed(ticket)

    def give_back(self, info: EngineInfo, ticket: Ticket, output_tokens: int | None = None) -> None:
        """Give a place back, also of an engine that has gone meanwhile; how long the answer was, if that is known."""
        fields = info.__dict__
        fields["active_requests"] = max(0, fields["active_requests"] - 1)
        self._policy.finished(ticket, output_tokens)
        if self._infos.get(info.engine_id) is info:
            bounded = self._engines.bounded
            self._engines.give_back(Reservation(info.engine_id, ticket.kv_tokens) if bounded else info.engine_id)
            if self._line:
                self._measure()
                self.serve()

    def wait(self, ticket: Ticket) -> None:
        """Stand in line; granted at once if it is its turn."""
        self._policy.rank(ticket)
        self._line.add(ticket)
        self.serve()

    def leave(self, ticket: Ticket) -> None:
        """Stand in line no more."""
        if self._line.remove(ticket):
            self._policy.dropped(ticket)
            self._engines.release_kept(ticket.arrival.id)

    def position(self, ticket: Ticket) -> int:
        """Its place in line, from 1; 0: it does not wait."""
        position = self._line.position(ticket)
        return 0 if position is None else position + 1

    def wait_ms(self, position: int) -> float:
        """Estimated wait of who has this place in line: at the rate at which places have come free lately."""
        interval_s = self._interval_s if self._interval_s is not None else UNKNOWN_SERVICE_S / max(1, self.places)
        return position * interval_s * 1000

    def dismiss(self) -> None:
        """No engine is left: nobody waits any more."""
        for ticket in self._line.clear():
            self._policy.dropped(ticket)
            ticket.granted(None)

    def serve(self) -> None:
        """Give out places while there are any, in the order of the ranks."""
        if self._serving or not self._line:
            return
        self._serving = True
        try:
            engines = self._engines
            if self._policy.adapt(self._line, self.places, engines.mean_requests(), self._misses.rate(self.model)):
                self._policy.rank_again(self._line)
            self._give_out(time.time() * 1000)
        finally:
            self._serving = False

    def _give_out(self, now_ms: float) -> None:
        engines, line = self._engines, self._line
        engines.open_due(now_ms)
        at = 0
        blocked: Ticket | None = None
        while (engines.places > 0 or engines.keeps_any) and at < min(len(line), DEEPEST_LOOK):
            ticket = line[at]
            match self._policy.judge(ticket, now_ms):
                case Verdict.STEP_BACK:
                    line.pop(at)
                    self._policy.step_back(ticket)
                    line.add(ticket)
                    continue
                case Verdict.REFUSE:
                    line.pop(at)
                    self._policy.dropped(ticket)
                    ticket.granted(None)
                    continue
                case Verdict.PLACE:
                    pass
            if blocked is not None and not may_pass(ticket.rank, blocked.rank, self._policy.order.patience_ms):
                self._keep_free(blocked, now_ms)
            engine_id = self._chosen(ticket, now_ms)
            if engine_id is None:
                if blocked is None and engines.roomiest(ticket.arrival) is not None:
                    blocked = ticket
                at += 1
                continue
            line.pop(at)
            self.take(engine_id, ticket)
            ticket.granted(engine_id)
        if line and (opens_ms := engines.next_opening_ms) is not None:
            self._look_again_at(opens_ms, now_ms)

    def _keep_free(self, blocked: Ticket, now_ms: float) -> None:
        """What comes free is kept for one that fits nowhere, once those behind it have passed it for long enough."""
        engines, request_id = self._engines, blocked.arrival.id
        if engines.kept_for(request_id) is None:
            roomiest = engines.roomiest(blocked.arrival)
            if roomiest is not None:
                engines.keep_free(roomiest, request_id, now_ms + KEPT_FREE_MS)

    def _chosen(self, ticket: Ticket, now_ms: float) -> str | None:
        arrival, forecast, engines = ticket.arrival, ticket.forecast, self._engines
        kept = engines.kept(arrival, forecast) if engines.keeps_any else None
        choice = kept or self._policy.placement.choose(arrival, forecast, engines, now_ms)
        if not isinstance(choice, Hold):
            return choice
        self._look_again_at(choice.until_ms, now_ms)
        return None

    def _look_again_at(self, at_ms: float, now_ms: float) -> None:
        if self._look_again is None:
            delay_s = max(0.001, (at_ms - now_ms) / 1000)
            self._look_again = asyncio.get_running_loop().call_later(delay_s, self._hold_over)

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
