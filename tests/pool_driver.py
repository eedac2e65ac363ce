"""Drives one pool by single steps, as its gateways, schedulers and workers would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sagellm_control.store.connect import Store
from sagellm_control.store.inspect import read_output
from sagellm_control.store.steps.accept import (
    Accepted,
    AcceptedBatch,
    AcceptLimits,
    AcceptResult,
    Proposal,
    Proposals,
    accept,
    accept_batch,
)
from sagellm_control.store.steps.admit import Admission, Admitted, admit
from sagellm_control.store.steps.advance import Advance, advance
from sagellm_control.store.steps.append import Output, append
from sagellm_control.store.steps.assign import Assigned, Move, assign
from sagellm_control.store.steps.claim import claim
from sagellm_control.store.steps.engines import Held, register_engine, retire_engine
from sagellm_control.store.steps.finish import Finish, finish
from sagellm_control.store.steps.requeue import Cause, Requeue, requeue
from sagellm_control.store.steps.rules import PLAIN, Rules
from sagellm_control.store.steps.take import LEAST_URGENT, IntakeEntry, Taken, ensure_groups, take
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.event import Ending, Event
from sagellm_control.wire.keys import PoolKeys
from sagellm_control.wire.request import NewRequest, read_arrival
from sagellm_control.wire.states import EngineState, Outcome, RequestKind

from .clock import Clock

LEASE_MS = 10_000
DONE = Ending(Outcome.COMPLETED, body=b'{"answer":"yes"}')
BROKEN = Ending(Outcome.FAILED, status=502, code="engine_broken", message="It broke.")
BUSY = Ending(
    Outcome.FAILED,
    status=429,
    code="engine_error",
    message="engine e1 answered 429",
    retry_after_s=7.0,
    body=b'{"no":1}',
)


def new_request(request_id: str, pool: str, **fields: Any) -> NewRequest:
    """A request with everything filled in that a test does not care about."""
    made: dict[str, Any] = {
        "kind": RequestKind.CHAT,
        "body": f'{{"prompt":"{request_id}"}}'.encode(),
        "inbox": f"inbox-of-{request_id}",
        "ticket": f"ticket-of-{request_id}",
    }
    return NewRequest(id=request_id, pool=pool, **{**made, **fields})


@dataclass
class PoolDriver:
    """One pool. Methods return what the steps return; those that prepare a state assert that they reached it."""

    store: Store
    clock: Clock
    name: str
    limits: AcceptLimits = field(default_factory=lambda: AcceptLimits(without_engine=True))
    rows: dict[str, EngineRow] = field(default_factory=dict[str, EngineRow])

    @property
    def keys(self) -> PoolKeys:
        return self.store.keys.pool(self.name)

    # Engines

    async def engine(
        self, engine: str = "e1", *, slots: int = 1, models: tuple[str, ...] = (), **row: Any
    ) -> EngineRow:
        """A registered engine, READY unless told otherwise, held by the worker ``w-<engine>``."""
        made = {"kind": "openai", "url": "", "worker": f"w-{engine}", "state": EngineState.READY} | row
        self.rows[engine] = EngineRow(engine_id=engine, pool=self.name, slots=slots, models=models, **made)
        held = await register_engine(self.store, self.rows[engine], lease_ms=LEASE_MS)
        assert not isinstance(held, Held), f"{engine} is held by {held}"
        return self.rows[engine]

    async def second_worker(self, engine: str = "e1", **row: Any) -> EngineRow:
        """The engine under ``w-second``: the lease of the first has lapsed, and a keeper has seen it."""
        self.clock.advance(LEASE_MS)
        assert await retire_engine(self.store, self.name, engine, "", EngineState.ERROR, "lapsed")
        return await self.engine(engine, worker="w-second", **row)

    def worker(self, engine: str) -> str:
        """The session that registered the engine last."""
        return self.rows[engine].worker

    # The way of a request

    async def accept(self, *request_ids: str, **fields: Any) -> list[AcceptResult]:
        """Accept requests in one batch; a millisecond passes first."""
        self.clock.advance(1)
        return await accept(
            self.store, self.name, [new_request(r, self.name, **fields) for r in request_ids], self.limits
        )

    async def accept_at_once(
        self, proposals: Mapping[str, Proposal], *, rules: Rules = PLAIN, **fields: Any
    ) -> AcceptedBatch:
        """Accept requests, each with what is proposed for it, in one batch; a millisecond passes first."""
        self.clock.advance(1)
        requests = [new_request(r, self.name, **fields) for r in proposals]
        return await accept_batch(
            self.store, self.name, requests, self.limits, Proposals(list(proposals.values()), rules)
        )

    async def take(self, consumer: str = "s1", *, arrivals: int = 100, down_to: int = LEAST_URGENT) -> Taken:
        """Read what arrived and what came free."""
        await ensure_groups(self.store, self.keys)
        return await take(self.store, self.keys, consumer, arrivals=arrivals, down_to=down_to)

    async def admit(self, *admissions: Admission) -> Admitted:
        """Admit arrivals."""
        admitted = await admit(self.store, self.name, admissions)
        assert admitted is not None, "the policy has changed"
        return admitted

    async def waiting(self, *request_ids: str, **fields: Any) -> None:
        """Requests in the waiting set, ranked by their time of arrival."""
        for request_id in request_ids:
            assert [type(r) for r in await self.accept(request_id, **fields)] == [Accepted]
            admitted = await self.admit(*(self.admission(entry) for entry in (await self.take()).arrivals))
            assert admitted.results == ["waiting"]

    async def assigned(self, *request_ids: str, engine: str = "e1", **fields: Any) -> None:
        """Requests assigned to an engine."""
        for request_id in request_ids:
            await self.waiting(request_id, **fields)
            assert (await self.assign(Move(request_id, 0, engine))).results == ["assigned"]

    async def running(self, *request_ids: str, engine: str = "e1", **fields: Any) -> None:
        """Requests that run on an engine, in their first attempt."""
        await self.assigned(*request_ids, engine=engine, **fields)
        for request_id in request_ids:
            assert await self.claim(request_id, engine=engine) == "running"

    @staticmethod
    def admission(entry: IntakeEntry, *, engine: str | None = None, rank: float | None = None) -> Admission:
        """An entry ranked by its time of arrival, unless told otherwise."""
        arrival = read_arrival(entry.fields["id"], entry.fields)
        return Admission(entry.level, entry.entry_id, arrival.id, arrival.arrived_ms if rank is None else rank, engine)

    async def assign(self, *moves: Move, settles: tuple[str, ...] = (), passed: int = 0) -> Assigned:
        """Place waiting requests."""
        return await assign(self.store, self.name, moves, settles=settles, passed=passed)

    async def claim(self, request_id: str, attempt: int = 1, *, engine: str = "e1", worker: str | None = None) -> str:
        """Claim one attempt."""
        holder = self.worker(engine) if worker is None else worker
        return (await claim(self.store, self.name, engine, holder, [(request_id, attempt, 0.0)]))[0]

    async def append(
        self,
        request_id: str,
        sequence: int = 1,
        payload: bytes = b"data: x\n\n",
        *,
        attempt: int = 1,
        engine: str = "e1",
        worker: str | None = None,
    ) -> bool:
        """Append one piece of output."""
        holder = self.worker(engine) if worker is None else worker
        output = Output(request_id, attempt, sequence, payload)
        return (await append(self.store, self.name, engine, holder, [output]))[0]

    async def finish(
        self,
        request_id: str,
        sequence: int = 1,
        ending: Ending = DONE,
        *,
        attempt: int = 1,
        engine: str = "e1",
        worker: str | None = None,
    ) -> bool:
        """Finish one attempt."""
        holder = self.worker(engine) if worker is None else worker
        return (await finish(self.store, self.name, engine, holder, [Finish(request_id, attempt, sequence, ending)]))[0]

    async def requeue(
        self,
        request_id: str,
        cause: Cause = Cause.FAILED,
        *,
        attempt: int | None = 1,
        engine: str = "e1",
        worker: str | None = None,
        last_error: Ending | None = BROKEN,
        reason: str = "",
        max_failures: int = 3,
    ) -> str:
        """Give one attempt back."""
        holder = self.worker(engine) if worker is None else worker
        item = Requeue(request_id, attempt, cause, last_error, reason)
        return (await requeue(self.store, self.name, engine, holder, [item], max_failures=max_failures))[0]

    async def advance(
        self,
        request_id: str,
        transfer: bytes = b"{}",
        *,
        attempt: int = 1,
        engine: str = "e1",
        worker: str | None = None,
    ) -> str:
        """Hand one attempt over to an engine that decodes."""
        holder = self.worker(engine) if worker is None else worker
        return (await advance(self.store, self.name, engine, holder, [Advance(request_id, attempt, transfer)]))[0]

    # What came of it

    async def record(self, request_id: str) -> dict[str, str]:
        """The request's record."""
        fields = await self.store.commands.hgetall(self.keys.record(request_id))
        return {name.decode(): value.decode() for name, value in fields.items()}

    async def state(self, request_id: str) -> str | None:
        """Where the request is."""
        return (await self.record(request_id)).get("state")

    async def waiting_ids(self) -> list[str]:
        """The waiting set, in its order."""
        return [m.decode() for m in await self.store.commands.zrange(self.keys.waiting, 0, -1)]

    async def assigned_entries(self, engine: str = "e1") -> list[dict[str, str]]:
        """What is in the engine's assigned stream."""
        entries = await self.store.commands.xrange(self.keys.assigned(engine))
        return [{n.decode(): v.decode() for n, v in fields.items()} for _, fields in entries]

    async def holds(self, engine: str = "e1") -> set[str]:
        """The requests that hold a place on the engine."""
        return {m.decode() for m in await self.store.commands.hkeys(self.keys.reservations(engine))}

    async def room(self) -> dict[str, int]:
        """READY engine -> free places."""
        entries = await self.store.commands.zrange(self.keys.room, 0, -1, withscores=True)
        return {name.decode(): int(free) for name, free in entries}

    async def freed(self) -> list[tuple[str, int]]:
        """The announcements of free room: engine and places."""
        entries = await self.store.commands.xrange(self.keys.freed)
        return [(fields[b"engine"].decode(), int(fields[b"free"])) for _, fields in entries]

    async def dead(self) -> list[dict[str, str]]:
        """The dead stream."""
        entries = await self.store.commands.xrange(self.keys.dead)
        return [{n.decode(): v.decode(errors="replace") for n, v in fields.items()} for _, fields in entries]

    async def counters(self) -> dict[str, int]:
        """The pool's counters."""
        fields = await self.store.commands.hgetall(self.keys.counters)
        return {name.decode(): int(count) for name, count in fields.items()}

    async def events(self, request_id: str) -> list[Event]:
        """The output log."""
        return await read_output(self.store, self.name, request_id)

    async def ending(self, request_id: str) -> Ending:
        """How the request ended, according to its output log."""
        last = (await self.events(request_id))[-1]
        assert last.type == "end"
        return Ending.decode(last.payload)
