"""The only module that hands requests to the scheduler's decisions within this process.

One line a model: those that wait under their ranks, and the engines that may take them. What becomes of who is at its
head says ``HeadOfLine``, as it does in a scheduler, which has scripts carry it out, and in the simulator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from ..engine_access import EngineObservation
from ..scheduler.engine_load import EngineRoom, Reservation
from ..scheduler.head_of_line import Action, Candidate, HeadOfLine, Look
from ..scheduler.open_engines import OpenEngines
from ..types import EngineInfo, EngineState
from ..wire.engine import EngineRole, EngineRow
from ..wire.registration import instance_type_of, kinds_of, role_of
from ..wire.request import Arrival
from .engine_speeds import EngineSpeeds
from .line import Line, Ticket
from .load import Misses
from .local_policy import LocalPolicy

DEEPEST_LOOK = 256
"""So many at the head may be unable to use what is free; beyond them nobody is looked for. Each arrival and each place
that comes free begins a look, on the program's event loop: this many take it less than a millisecond."""
SAMPLE_EVERY_S = 0.5
"""How often it is looked how fast the engines are, and how long the line, while anything happens."""
SHORTEST_PAUSE_S = 0.001

UNKNOWN_SERVICE_S = 1.0
"""How long a request is taken to hold a place while nothing has been measured."""
INTERVAL_WEIGHT = 0.05
"""Of the newest interval in the moving average: it remembers some twenty."""
LONGEST_INTERVAL_S = 60.0


class ModelQueue:
    """The line of one model. ``closed``: told each time that an engine takes nothing more, whatever closed it."""

    def __init__(
        self,
        model: str,
        policy: LocalPolicy,
        misses: Misses,
        closed: Callable[[ModelQueue], None] = lambda _queue: None,
    ) -> None:
        self.model = model
        self._policy = policy
        self._misses = misses
        self._closed = closed
        self._engines = OpenEngines()
        self._head = HeadOfLine(policy, self._engines)
        self._speeds = EngineSpeeds()
        self._infos: dict[str, EngineInfo] = {}
        self._rows: dict[str, EngineRow] = {}
        self._kv_held: dict[str, float] = {}
        """By what runs on the engine, also while it is not READY."""
        self._line = Line()
        self._serving = False
        self._sampled_at = 0.0
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
    def any_ready(self) -> bool:
        """Whether an engine is READY."""
        return self._engines.ready > 0

    @property
    def places(self) -> int:
        """Places of all READY engines, taken or free."""
        return sum(self._rows[name].slots for name, info in self._infos.items() if info.state == EngineState.READY)

    # Engines

    def add(self, info: EngineInfo, room: int, kv_tokens: int) -> None:
        """An engine of this model; watched from now on. ``kv_tokens``: that its KV cache holds; 0: unknown."""
        instance_type = instance_type_of(info.metadata)
        row = EngineRow(
            info.engine_id,
            "",
            info.endpoint,
            info.engine_kind,
            room,
            models=(),
            kinds=kinds_of(info.engine_kind, instance_type),
            kv_tokens=kv_tokens,
            role=role_of(instance_type),
        )
        self._infos[info.engine_id] = info
        self._rows[info.engine_id], self._kv_held[info.engine_id] = row, 0.0
        self._engines.learn([row])
        info.watch(self._changed)
        self._follow(info)

    def remove(self, info: EngineInfo) -> None:
        """An engine goes."""
        info.watch(None)
        del self._infos[info.engine_id], self._rows[info.engine_id], self._kv_held[info.engine_id]
        self._speeds.forget(info.engine_id)
        self._engines.forget(info.engine_id)
        self._closed(self)
        self.serve()

    def _changed(self, info: EngineInfo, name: str) -> None:
        if name in ("state", "active_requests"):
            self._follow(info)

    def _follow(self, info: EngineInfo) -> None:
        if info.state == EngineState.READY:
            free = self._rows[info.engine_id].slots - info.active_requests
            if self._engines.load_of(info.engine_id) is None:
                self._engines.set_room(info.engine_id, EngineRoom(free, self._kv_held[info.engine_id]))
            else:
                self._engines.set_places(info.engine_id, free)
        else:
            self._engines.close(info.engine_id)
            self._closed(self)
        self.serve()  # without this engine, too: one that has failed a request takes it again if there is no other

    def engine(self, engine_id: str) -> EngineInfo:
        """An engine that has been added."""
        return self._infos[engine_id]

    def serves(self, arrival: Arrival) -> bool:
        """Whether a READY engine takes such a request."""
        return self._engines.serves(arrival)

    def others(self, excluded: Collection[str]) -> bool:
        """Whether a READY engine is not among the excluded."""
        return any(info.state == EngineState.READY and name not in excluded for name, info in self._infos.items())

    def only_prefills(self, engine_id: str) -> bool:
        """Whether the engine reads prompts, and leaves the answers to others."""
        row = self._rows.get(engine_id)
        return row is not None and row.role is EngineRole.PREFILL

    def observation(self, engine_id: str) -> EngineObservation:
        """Who watches how fast the engine is."""
        return self._speeds.observation(engine_id) if engine_id in self._rows else EngineObservation()

    def was_least_loaded(self, engine_id: str, arrival: Arrival) -> bool:
        """Whether no engine with room had fewer requests, before the place on this one was taken."""
        before = self._infos[engine_id].active_requests - 1
        return before <= 0 or not self._engines.open_to(arrival) or before <= self._engines.fewest(arrival)

    # Requests

    def ticket(self, arrival: Arrival) -> Ticket:
        """A request that wants a place."""
        return self._policy.ticket(arrival)

    def take(self, ticket: Ticket) -> str | None:
        """A place now, on the engine named; None: somebody waits, no engine has room for it, or one has failed it."""
        if self._line or ticket.arrival.excluded:  # the line knows what time it is
            return None
        taken = self._head.choose(ticket.arrival, ticket.forecast, ticket.arrival.arrived_ms)
        if not isinstance(taken, Reservation):
            return None
        self._place(ticket, taken)
        return taken.engine

    def _place(self, ticket: Ticket, taken: Reservation) -> None:
        ticket.taken = taken
        self._kv_held[taken.engine] += taken.kv_tokens
        self._infos[taken.engine].__dict__["active_requests"] += 1  # past the watcher: this is no news
        self._policy.placed(ticket)

    def give_back(self, info: EngineInfo, ticket: Ticket, output_tokens: int | None = None) -> None:
        """Give a place back, also of an engine that has gone meanwhile; how long the answer was, if that is known."""
        fields = info.__dict__
        fields["active_requests"] = max(0, fields["active_requests"] - 1)
        self._policy.finished(ticket, output_tokens)
        taken, ticket.taken = ticket.taken, None
        if taken is not None and self._infos.get(info.engine_id) is info:
            self._kv_held[taken.engine] -= taken.kv_tokens
            taken.prompt_read()
            self._engines.give_back(taken)
            if self._line:
                self._measure()
                self.serve()
            elif output_tokens is not None:
                self._sample()

    def wait(self, ticket: Ticket) -> None:
        """Stand in line; granted at once if it is its turn."""
        self._policy.rank(ticket)
        self._line.add(ticket)
        self.serve()

    def leave(self, ticket: Ticket) -> None:
        """Stand in line no more."""
        if self._line.remove(ticket):
            self._drop(ticket)
            self.serve()  # room may have been kept for it

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
            self._drop(ticket)
            ticket.granted(None)

    def _drop(self, ticket: Ticket) -> None:
        self._policy.dropped(ticket)
        self._head.forget(ticket.arrival.id)
        self._engines.release_kept(ticket.arrival.id)

    def serve(self) -> None:
        """Give out places while there are any, in the order of the ranks."""
        if self._serving or not self._line:
            return
        self._serving = True
        try:
            self._sample()
            self._give_out(time.time() * 1000)
        finally:
            self._serving = False

    def _give_out(self, now_ms: float) -> None:
        engines, line = self._engines, self._line
        engines.open_due(now_ms)
        at, look = 0, Look()
        while at < min(len(line), DEEPEST_LOOK):
            ticket = line[at]
            tried = bool(ticket.arrival.excluded)
            candidate = Candidate(ticket.arrival, ticket.forecast, ticket.rank, ticket.stepped_back, tried=tried)
            decision = self._head.decide(candidate, look, now_ms)
            if decision.action is Action.STOP:
                break
            if decision.action is Action.PASS:
                at += 1
                continue
            line.pop(at)
            if decision.taken is not None:
                self._head.forget(ticket.arrival.id)
                self._place(ticket, decision.taken)
                ticket.granted(decision.taken.engine)
                continue
            if decision.action is Action.STEP_BACK:
                ticket.stepped_back = True
                ticket.rank = decision.rank
                line.add(ticket)
            else:
                ticket.refused = True
                self._drop(ticket)
                ticket.granted(None)
        self._wake_at(min(look.next_hold_ms, engines.next_opening_ms or float("inf")), now_ms)

    def _wake_at(self, at_ms: float, now_ms: float) -> None:
        # An engine opens by time, or a hold ends: nothing else would look.
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        if self._line and at_ms < float("inf"):
            pause_s = max(SHORTEST_PAUSE_S, (at_ms - now_ms) / 1000)
            self._look_again = asyncio.get_running_loop().call_later(pause_s, self.serve)

    def _sample(self) -> None:
        now = time.monotonic()
        if now - self._sampled_at < SAMPLE_EVERY_S:
            return
        self._sampled_at = now
        for row in self._speeds.learned(self._rows):
            self._rows[row.engine_id] = row
            self._engines.learn([row])
        speeds = [load.row.speed for load in self._engines.loads()]
        missed = self._misses.rate(self.model)
        if self._policy.adapt(self._line, speeds, self.places, self._engines.mean_requests(), missed):
            self._policy.rank_again(self._line)

    def _measure(self) -> None:
        now = time.monotonic()
        interval_s = now - self._gave_back_at
        self._gave_back_at = now
        if interval_s < LONGEST_INTERVAL_S:
            before = interval_s if self._interval_s is None else self._interval_s
            self._interval_s = before + (interval_s - before) * INTERVAL_WEIGHT
