"""Decides whether, and how much, an engine is given: from probes, and from how its requests end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sagellm_control.stopping import is_set_within
from sagellm_control.store.trouble import Trouble
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.states import EngineState

from .. import metrics
from ..adapters.base import EngineAdapter
from ..attempts.engine_errors import UNREACHABLE
from ..lease.lease import Lease
from .breaker import BreakerSettings, CircuitBreaker, CircuitState
from .silence import Silence
from .slow_start import SlowStart

log = logging.getLogger(__name__)

FAILURES_TO_ERROR = 3
"""One slow answer to a probe is no outage; a probe that fails right after an attempt could not connect is. An engine
may be too busy with a prompt to answer a probe, and have nothing else to say: three take some 12 s."""
FAILED = UNREACHABLE | {"engine_timeout", "engine_error"}
SUCCEEDED = frozenset({"completed", "refused", "prefilled"})
"""A refusal is an answer. What was cancelled, expired or given back says nothing."""
NOT_ANSWERING = "it does not answer health probes"
LEAST_PAUSE_S = 0.5
"""An engine that asks for none, and answers so again, is not called without a break."""
PROBE_PATIENCE_S = 1.0
"""An engine that is gone refuses a probe at once; what has failed on one that hangs is not kept from the others."""


@dataclass(slots=True, frozen=True)
class HealthSettings:
    """How an engine is watched."""

    interval_s: float = 2.0
    gone_after_s: float = 30.0
    """So long an engine has been silent, to probes and requests, before its requests are given to others."""
    slow_start_s: float = 30.0
    longest_pause_s: float = 60.0
    """Longest that an engine is left alone because it asked for it."""
    breaker: BreakerSettings = field(default_factory=BreakerSettings)


class HealthWatch:
    """Watches one engine and reports what it may be given through the lease.

    * READY with all places; with some, while it recovers from an ERROR (slow start); with none more, while it has
      asked to be left alone (429 or 503 with Retry-After): what waits for it goes on waiting.
    * ERROR: it does not answer probes, or its circuit is open. Half-open, it is READY for one more request.
    * An engine that goes on with an answer is alive, whatever becomes of the probes: they may have to wait for that.
    * An open circuit takes no engine away whose requests no other would take: an engine that answers some of them, or
      says itself what is wrong, serves its clients better than none. It is READY as a last resort then.

    Args:
        row: as it was registered; in ERROR, it is probed at once, and READY with the first good probe.
        others_serve: whether other engines take what this one takes; asked while the circuit is not closed.
        returned: called when it answers a probe after it did not, or (once an interval) after an attempt found it gone:
            it may have been started again as another. It is given requests again when this returns.
    """

    def __init__(
        self,
        adapter: EngineAdapter,
        row: EngineRow,
        lease: Lease,
        settings: HealthSettings,
        others_serve: Callable[[], Awaitable[bool]],
        returned: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._adapter = adapter
        self._engine = row.engine_id
        self._places = row.slots + row.prefetch
        self._note = row.reason
        """What there is to say while all is well."""
        self._lease = lease
        self._interval_s = settings.interval_s
        self._gone_after_s = settings.gone_after_s
        self._longest_pause_s = settings.longest_pause_s
        self._others_serve = others_serve
        self._returned = returned
        self._breaker = CircuitBreaker(settings.breaker, time.monotonic)
        self._slow_start = SlowStart(settings.slow_start_s, time.monotonic)
        self._watching = True
        """False: the worker drains, and the engine's state is not ours to report any more."""
        self._was_up = True
        self._was_last_resort = False
        self._answers = row.state is not EngineState.ERROR
        self._can_be_spared = True
        self._paused_until = float("-inf")
        self._pause_s = 0.0
        self._half_open_limit: int | None = None
        self._suspected = False
        self._survey_at = float("-inf")
        """Before that, an attempt that found it gone is no reason to ask it anew what it is."""
        self._changed = asyncio.Event()
        self._probed = asyncio.Event()
        """Set when the next probe to begin has been answered and reported."""
        self.on_gone: Callable[[float], None] = _ignore
        """Called with each probe that finds the engine gone; with the time (monotonic) since when it is silent."""
        self._trouble = Trouble(log, f"engine {row.engine_id}: cannot look at the other engines")
        self._circuit = metrics.CIRCUIT.labels(row.pool, row.engine_id)
        self._opened = metrics.CIRCUIT_OPENED.labels(row.pool, row.engine_id)
        self._circuit.set(CircuitState.CLOSED)

    def take_over(self, adapter: EngineAdapter, row: EngineRow) -> None:
        """The engine is this from now on."""
        self._adapter = adapter
        self._places, self._note = row.slots + row.prefetch, row.reason
        self._changed.set()

    def attempt_ended(self, result: str) -> None:
        """An attempt on the engine has ended so (see ``Attempt.result``)."""
        before = self._breaker.state
        if result in FAILED or result in SUCCEEDED:
            self._breaker.record(result in SUCCEEDED)
        if result in UNREACHABLE:
            self._suspected = True
        if self._suspected or self._breaker.state is not before:
            self._changed.set()
        if self._breaker.state is CircuitState.OPEN and before is not CircuitState.OPEN:
            self._opened.inc()

    async def pause(self, pause_s: float) -> None:
        """The engine asked to be left alone for so long (s); returns when schedulers cannot give it anything more."""
        pause_s = min(max(pause_s, LEAST_PAUSE_S), self._longest_pause_s)
        until = time.monotonic() + pause_s
        if until > self._paused_until:
            log.info("engine %s asks for a pause of %g s", self._engine, pause_s)
            self._paused_until, self._pause_s = until, pause_s
            self._report()
        self._changed.set()
        await self._lease.reported()

    async def confirm(self) -> None:
        """An attempt could not reach the engine: returns when it has been probed and schedulers know if it is gone, or
        soon if it leaves the probe without an answer."""
        if not self._watching:
            return
        if self._answers:
            self._suspected = True
            self._changed.set()
            await is_set_within(self._probed, PROBE_PATIENCE_S)
        await self._lease.reported()

    def stop(self) -> None:
        """From now on nothing is reported: the worker drains."""
        self._watching = False
        self._probed.set()
        self._changed.set()

    async def run(self) -> None:
        """Watch until stopped or cancelled: probe every interval and at once after trouble, report whatever changes."""
        began = time.monotonic()
        silence = Silence(int(not self._answers), since=began)
        probe_at = began + (self._interval_s if self._answers else 0)
        while self._watching:
            await self._wait(probe_at)
            probed = None
            if self._suspected or time.monotonic() >= probe_at:
                probed, self._probed = self._probed, asyncio.Event()
                began = time.monotonic()
                await self._probe(silence, began)
                probe_at = began + self._interval_s
            if self._breaker.state is not CircuitState.CLOSED:
                await self._look_at_others()
            self._report()
            if probed is not None:
                probed.set()
                if silence.failures >= FAILURES_TO_ERROR and time.monotonic() - silence.since >= self._gone_after_s:
                    self.on_gone(silence.since)

    async def _probe(self, silence: Silence, began: float) -> None:
        suspected, self._suspected = self._suspected, False
        healthy = await self._adapter.healthy()
        if healthy and (silence.failures or (suspected and began >= self._survey_at)) and self._returned is not None:
            await self._returned()
            self._survey_at = time.monotonic() + self._interval_s
        silence.note(healthy, began, self._adapter.heard_at)
        if not silence.failures:
            self._answers = True
        elif suspected or silence.failures >= FAILURES_TO_ERROR:
            self._answers = False

    async def _look_at_others(self) -> None:
        with self._trouble.told():
            self._can_be_spared = await self._others_serve()

    def _report(self) -> None:
        if not self._watching:
            return
        circuit = self._breaker.state
        self._circuit.set(circuit)
        if circuit is not CircuitState.HALF_OPEN:
            self._half_open_limit = None
        last_resort = circuit is not CircuitState.CLOSED and not self._can_be_spared
        up = self._answers and (last_resort or circuit is not CircuitState.OPEN)
        if up and not self._was_up:
            self._slow_start.begin()
        if not up:
            reason = f"circuit open: {self._breaker.reason}" if self._answers else NOT_ANSWERING
            self._lease.report(EngineState.ERROR, reason)
        elif self._paused_until > time.monotonic():
            reason = f"it asked for a pause of {self._pause_s:g} s"
            self._lease.report(EngineState.READY, reason, limit=0)
        elif last_resort:
            reason = f"circuit open: {self._breaker.reason}; no other engine could take its requests"
            self._lease.report(EngineState.READY, reason, last_resort=True)
        elif circuit is CircuitState.HALF_OPEN:
            if self._half_open_limit is None:
                # What still runs from before is not the one that shows whether the engine is well.
                self._half_open_limit = min(self._places, self._lease.held + 1)
            reason = "circuit half-open: one request shows whether it is well"
            self._lease.report(EngineState.READY, reason, limit=self._half_open_limit)
        else:
            limit = self._slow_start.limit(self._places)
            reason = self._note if limit is None else f"slow start: {limit} of {self._places} places"
            self._lease.report(EngineState.READY, reason, limit=limit)
        self._tell(up, up and last_resort, reason)

    def _tell(self, up: bool, last_resort: bool, reason: str) -> None:
        """Say in the log that the engine went down or came back: an operator may look nowhere else."""
        if not up and self._was_up:
            log.warning("engine %s is in ERROR: %s", self._engine, reason)
        elif last_resort and not self._was_last_resort:
            log.warning("engine %s is READY as a last resort: %s", self._engine, reason)
        elif up and not self._was_up:
            log.warning("engine %s is READY again%s", self._engine, f": {reason}" if reason else "")
        self._was_up, self._was_last_resort = up, last_resort

    async def _wait(self, probe_at: float) -> None:
        """Until the next probe, the next change by time, or trouble."""
        now = time.monotonic()
        moments = [probe_at]
        if self._paused_until > now:
            moments.append(self._paused_until)
        if (open_s := self._breaker.opens_in_s) > 0:
            moments.append(now + open_s)
        if self._slow_start.limit(self._places) is not None:
            moments.append(now + self._slow_start.next_step_s(self._places))
        await is_set_within(self._changed, min(moments) - now)
        self._changed.clear()


def _ignore(since: float) -> None:
    """Nobody wants to know when the engine is gone."""
