"""Deals with what arrives: ranks it, proposes an engine, and has the store admit it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..store.connect import Store
from ..store.inspect import serves
from ..store.steps.admit import Admission, Admitted, admit
from ..store.steps.rules import Rules
from ..store.steps.take import IntakeEntry
from ..wire.request import MAX_ID_LENGTH, Arrival, BadEntry, is_request_id, read_arrival
from . import metrics
from .proposal import Choice, Proposer

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.1
"""For a kind of request that no engine known takes, new engines are looked for no more often."""


@dataclass(slots=True)
class Batch:
    """Decisions about arrivals, before they are committed."""

    entries: Sequence[IntakeEntry]
    admissions: list[Admission]
    choices: list[Choice | None]
    """For each admission the room that was taken for it."""
    rules: Rules
    ends_ms: float = float("inf")
    """When the first of them may wait no longer; inf: all may."""


@dataclass(slots=True, frozen=True)
class AfterAdmission:
    """What a commit left."""

    waiting: int
    """Requests that wait."""
    room: bool
    """Some engine has room."""
    added: bool
    """Some of the arrivals have to wait."""
    left: int = 0
    """Arrivals that were still in their streams."""
    ends_ms: float = float("inf")
    """When the first of those that have to wait may do so no longer, or earlier."""


class _ModelNotFound(BadEntry):
    # Also of one that its gateway still knew when it took the request, and that nobody serves any more.
    pass


class ArrivalDesk:
    """Arrivals of one pool, batch by batch."""

    def __init__(self, store: Store, pool: str, proposer: Proposer) -> None:
        self._store = store
        self._pool = pool
        self._proposer = proposer
        self._watch = proposer.watch
        self._looked_at = float("-inf")
        """When new engines were looked for last (monotonic)."""
        self._turn = asyncio.Lock()
        """Of the commits, which reach the server in the order in which they were decided."""

    async def decide(self, entries: Sequence[IntakeEntry]) -> Batch:
        """Rank each and propose an engine for it."""
        began = time.monotonic()
        batch = Batch(entries, [], [], self._proposer.rules())
        readable: list[tuple[IntakeEntry, Arrival]] = []
        for entry in entries:
            try:
                arrival = _read(entry)
                if arrival.model and not self._watch.engines.answers_to(arrival.model):
                    await self._find_engine(arrival.model, began)
                elif not self._watch.engines.knows_who_takes(arrival.kind):
                    await self._look_for_new_engines()
                readable.append((entry, arrival))
            except BadEntry as bad:
                log.warning("pool %s: entry %s cannot be read: %s", self._pool, entry.entry_id, bad)
                request_id = entry.fields.get("id", "")
                # A text that is no id is not used as one: it could name a key that is something else.
                request_id = request_id if is_request_id(request_id) else "unreadable"
                dead = Admission(entry.level, entry.entry_id, request_id, dead_reason=str(bad))
                if isinstance(bad, _ModelNotFound):
                    dead.dead_status, dead.dead_code = 404, "model_not_found"
                batch.admissions.append(dead)
                batch.choices.append(None)
        # From here on nothing waits: a policy that changes meanwhile would mix two orders in one batch.
        batch.rules = self._proposer.rules()
        arrivals = [arrival for _, arrival in readable]
        for made in self._proposer.propose(arrivals, self._watch.clock.now_ms()):
            entry, arrival = readable[made.number]
            admission = Admission(entry.level, entry.entry_id, arrival.id, made.rank)
            admission.charge = made.charge
            admission.wait_ms = made.wait_ms
            if made.wait_ms:
                batch.ends_ms = min(batch.ends_ms, arrival.arrived_ms + made.wait_ms)
            if made.choice is not None:
                admission.engine = made.choice.engine
                admission.kv_tokens, admission.uncached_tokens = made.choice.kv_tokens, made.choice.uncached_tokens
            batch.admissions.append(admission)
            batch.choices.append(made.choice)
        return batch

    async def commit(self, batch: Batch) -> AfterAdmission:
        """Have the store carry it out."""
        while (admitted := await self._admit(batch)) is None:
            # The policy has changed since: decide anew under the one of now.
            for choice in filter(None, batch.choices):
                self._proposer.give_back(choice)
            await self._proposer.policy.follow()
            batch = await self.decide(batch.entries)
        return await self._take_in(batch, admitted)

    async def _admit(self, batch: Batch) -> Admitted | None:
        return await admit(self._store, self._pool, batch.admissions, batch.rules, turn=self._turn)

    async def _take_in(self, batch: Batch, admitted: Admitted) -> AfterAdmission:
        for choice, result in zip(batch.choices, admitted.results, strict=True):
            if choice is not None:
                self._proposer.settle(choice, used=result == "assigned")
        self._watch.take_over(admitted.room)
        metrics.BATCH.labels(self._pool).observe(len(batch.admissions))
        for result in set(admitted.results):
            metrics.ADMITTED.labels(self._pool, result).inc(admitted.results.count(result))
        if (admitted.room.open_engines > 0) != (self._watch.engines.open > 0):
            # There is room that this snapshot does not know of, or none where it sees some.
            await self._watch.read()
        room, added = admitted.room, "waiting" in admitted.results
        ends_ms = batch.ends_ms if added else float("inf")
        return AfterAdmission(room.waiting, room.open_engines > 0, added, admitted.left, ends_ms)

    async def _look_for_new_engines(self) -> None:
        # One that was just registered may take what none does that is known. (Where none does, they say what is wrong.)
        if time.monotonic() - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = time.monotonic()
            await self._watch.read()

    async def _find_engine(self, model: str, batch_began: float) -> None:
        if not await serves(self._store, self._pool, model):
            raise _ModelNotFound(f"no engine of this pool serves the model {model[:80]!r}")
        if self._watch.rows_read_at < batch_began:
            # An engine may have learned it since its row was read.
            await self._watch.read(all_rows=True)


def _read(entry: IntakeEntry) -> Arrival:
    request_id = entry.fields.get("id", "")
    if not is_request_id(request_id):
        raise BadEntry(f"field 'id' must be 1 to {MAX_ID_LENGTH} letters, digits or ._~@=+-")
    return read_arrival(request_id, entry.fields)
