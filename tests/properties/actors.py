"""Gateways, schedulers, workers and keepers that do one step at a time, on what they knew some steps ago."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sagellm_control.store.steps.admit import Admission, Admitted
from sagellm_control.store.steps.assign import Move, assign
from sagellm_control.store.steps.attach import attach
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.detach import detach
from sagellm_control.store.steps.engines import Held, drain_engine, register_engine, renew_engine, retire_engine
from sagellm_control.store.steps.mend import heal, mend
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.store.steps.take import ensure_groups, reclaim
from sagellm_control.store.waiting_line import Waiting, WaitingLine
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import EngineState, Outcome

from ..lapsed import retire_lapsed
from ..pool_driver import BROKEN, DONE, LEASE_MS, PoolDriver
from ..pool_state import Fields, PoolState, misplaced, not_whole, read_state, violations
from .at_once import accept_at_once
from .holding import Holding
from .listener import Listener

ENGINES = {"e1": 1, "e2": 2}
CONSUMERS = ("s1", "s2")
CAUSES = tuple(Cause)
ENDINGS = (DONE, Ending(Outcome.REFUSED, 400), Ending(Outcome.CANCELLED, 499), Ending(Outcome.EXPIRED, 504))


@dataclass
class Actors:
    """Takes steps by number, so that any list of numbers is a run; after each the pool must be sound."""

    pool: PoolDriver
    hands: dict[str, list[Admission]] = field(default_factory=lambda: {c: [] for c in CONSUMERS})
    heads: dict[str, list[Waiting]] = field(default_factory=lambda: {c: [] for c in CONSUMERS})
    held: list[Holding] = field(default_factory=list[Holding])
    sessions: int = 0
    sequences: dict[Holding, int] = field(default_factory=dict[Holding, int])
    ended: dict[str, str] = field(default_factory=dict[str, str])
    before: PoolState = field(default_factory=PoolState)
    freed: dict[str, list[str]] = field(default_factory=lambda: {c: [] for c in CONSUMERS})
    """Announcements of free room that each scheduler has taken and not settled."""
    told: bool = False
    """Whether a scheduler was last told that requests wait beside engines with room."""
    left: set[str] = field(default_factory=set[str])
    """Requests whose own inbox was detached at some time."""
    listener: Listener = field(default_factory=Listener)

    async def start(self) -> None:
        await self.listener.listen(self.pool.store)
        await ensure_groups(self.pool.store, self.pool.keys)
        for engine in ENGINES:
            await self.register(0, 0, engine)
        await self.check()

    async def do(self, name: str, i: int, j: int) -> None:
        """One step, then look at everything."""
        step: Callable[[int, int], Awaitable[None]] = getattr(self, name)
        await step(i, j)
        await self.check()

    async def check(self) -> None:
        state = await read_state(self.pool.store, self.pool.keys)
        assert not (found := [*violations(state), *misplaced(state), *not_whole(self.before, state)]), found
        # Invariant 4: who waits beside an engine with room is announced, or a scheduler knows of it.
        if state.waiting and max(state.room.values(), default=0) > 0:
            assert state.announced or self.told, "requests wait beside an engine with room, and nobody knows"
        assert state.counters.get("accepted", 0) == len(state.records)
        finished = {r: record["outcome"] for r, record in state.records.items() if record["state"] == "finished"}
        assert finished.items() >= self.ended.items(), "an outcome has changed"
        assert sum(state.counters.get(outcome, 0) for outcome in Outcome) == len(finished)
        for name, engine in state.engines.items():
            for work in engine.work:
                holding = Holding(work["id"], int(work["attempt"]), name, engine.row["worker"])
                if holding not in self.held:
                    self.held.append(holding)
        self.ended, self.before = finished, state

    async def rest(self) -> None:
        """What schedulers do when nothing else happens: everything that can run then runs, or nobody has room."""
        consumer = CONSUMERS[0]
        await self.drain(0, 1)
        await self.drain(1, 1)
        taken = await reclaim(self.pool.store, self.pool.keys, consumer, idle_ms=0)
        taken.arrivals += (await self.pool.take(consumer)).arrivals
        await self._admitted(self.pool.admit(*map(self.pool.admission, taken.arrivals)))
        for engine in ENGINES:
            head = await WaitingLine(self.pool.store, self.pool.name).read(0, 100)
            await self._assign(head, engine, consumer)
        await self.check()
        state = self.before
        assert not state.intake
        if state.waiting:
            assert max(state.room.values(), default=0) <= 0, "requests wait beside an engine with room"
        await self.listener.check(state.outputs, self.left)

    # Gateways

    async def attach(self, i: int, _j: int) -> None:
        await attach(self.pool.store, self.pool.name, f"r{i}", "another-inbox")

    async def detach(self, i: int, j: int) -> None:
        inbox = "another-inbox" if j else f"inbox-of-r{i}"
        self.left |= set() if j else {f"r{i}"}
        await detach(self.pool.store, self.pool.name, f"r{i}", inbox)

    async def accept(self, i: int, j: int) -> None:
        # Every other one may be gone on with by another attempt.
        await self.pool.accept(
            f"r{i}", timeout_ms=0 if j else 2 * LEASE_MS, ticket=f"ticket-{j}", stream=True, continuable=i % 2 == 0
        )

    async def accept_at_once(self, i: int, j: int) -> None:
        await accept_at_once(self.pool, i, j)

    async def cancel(self, i: int, j: int) -> None:
        outcome = Outcome.EXPIRED if j == 0 else Outcome.CANCELLED
        await cancel(self.pool.store, self.pool.name, f"r{i}", outcome)

    # Schedulers

    async def take(self, i: int, j: int) -> None:
        consumer = CONSUMERS[i % 2]
        taken = await self.pool.take(consumer, arrivals=1 + j)
        self.hands[consumer] += [self.pool.admission(entry) for entry in taken.arrivals]
        self.freed[consumer] += [entry.entry_id for entry in taken.freed]

    async def reclaim(self, i: int, _j: int) -> None:
        consumer = CONSUMERS[i % 2]
        taken = await reclaim(self.pool.store, self.pool.keys, consumer, idle_ms=0)
        self.hands[consumer] += [self.pool.admission(entry) for entry in taken.arrivals]
        self.freed[consumer] += [entry.entry_id for entry in taken.freed]

    async def admit(self, i: int, j: int) -> None:
        consumer = CONSUMERS[i % 2]
        engine = (None, "e1", "e2", "e2")[j]
        hand = self.hands[consumer]
        # The first of them only, at times: it dies in between or goes on later.
        now = hand if i < 4 else hand[:1]
        self.hands[consumer] = [] if i < 6 else hand
        await self._admitted(self.pool.admit(*(replace(admission, engine=engine) for admission in now)))

    async def _admitted(self, admitting: Awaitable[Admitted]) -> None:
        admitted = await admitting
        self.told |= admitted.room.waiting > 0 and admitted.room.open_engines > 0

    async def look(self, i: int, _j: int) -> None:
        self.heads[CONSUMERS[i % 2]] = await WaitingLine(self.pool.store, self.pool.name).read(0, 4)

    async def assign(self, i: int, j: int) -> None:
        engine = ("e1", "e2", "e2", None)[j]
        consumer = CONSUMERS[i % 2]
        await self._assign(self.heads[consumer][: 1 + i // 2], engine, consumer)

    async def _assign(self, head: list[Waiting], engine: str | None, consumer: str) -> None:
        before = (await read_state(self.pool.store, self.pool.keys)).waiting
        settles, self.freed[consumer] = self.freed[consumer], []
        moves = [Move(w.arrival.id, w.attempts, engine, stage=w.arrival.stage) for w in head]
        answer = await assign(self.pool.store, self.pool.name, moves, settles=settles)
        self.told = answer.room.waiting > 0 and answer.room.open_engines > 0
        # Invariant 6: who goes has nobody before it that the scheduler has not looked at.
        named = {move.request_id for move in moves}
        for move, result in zip(moves, answer.results, strict=False):
            if result == "assigned":
                ahead = {r for r, rank in before.items() if rank < before[move.request_id]}
                assert ahead <= named, f"{move.request_id} was assigned before {ahead - named}"

    async def hurry(self, i: int, j: int) -> None:
        """Everything that a scheduler does, at once: so that most runs get somewhere."""
        await self.take(i, 3)
        await self.admit(i % 2, j)
        await self.look(i, 0)
        await self.assign(i, j)

    # Workers

    async def claim(self, i: int, _j: int) -> None:
        if holding := self._one_of(self.held, i):
            result = await self.pool.claim(**self._fenced(holding))
            await self._expect(holding, result != "lost")

    async def append(self, i: int, j: int) -> None:
        if holding := self._one_of(self.held, i):
            sequence = self.sequences.get(holding, 0) + (0 if j == 0 and holding in self.sequences else 1)
            self.sequences[holding] = sequence
            await self._expect(holding, await self.pool.append(sequence=sequence, **self._fenced(holding)))

    async def finish(self, i: int, j: int) -> None:
        if holding := self._one_of(self.held, i):
            sequence = self.sequences.get(holding, 0) + 1
            kept = await self.pool.finish(sequence=sequence, ending=ENDINGS[j], **self._fenced(holding))
            # Finished by this very attempt before: that is no news, and fine.
            record = self.before.records[holding.request_id]
            await self._expect(holding, kept and record["state"] != "finished")

    async def requeue(self, i: int, j: int) -> None:
        if holding := self._one_of(self.held, i):
            result = await self.pool.requeue(
                cause=CAUSES[j % len(CAUSES)], last_error=BROKEN, max_failures=2, **self._fenced(holding)
            )
            await self._expect(holding, result != "lost")

    async def advance(self, i: int, _j: int) -> None:
        if holding := self._one_of(self.held, i):
            result = await self.pool.advance(**self._fenced(holding))
            # Advanced by this very attempt before: that is no news, and fine.
            was_running = self.before.records[holding.request_id]["state"] in ("assigned", "running")
            await self._expect(holding, result != "lost" and was_running)

    async def register(self, i: int, _j: int, engine: str | None = None) -> None:
        name = engine or self._engine(i)
        self.sessions += 1
        worker = f"w{self.sessions}"
        if name not in self.pool.rows:
            await self.pool.engine(name, slots=ENGINES[name], worker=worker)
            return
        row = replace(self.pool.rows[name], worker=worker)
        if not isinstance(await register_engine(self.pool.store, row, lease_ms=LEASE_MS), Held):
            self.pool.rows[name] = row

    async def renew(self, i: int, j: int) -> None:
        row = self.pool.rows[self._engine(i)]
        state = EngineState.ERROR if j == 0 else EngineState.READY
        attempts = [(h.request_id, h.attempt) for h in self.held if h.engine == row.engine_id]
        await renew_engine(self.pool.store, replace(row, state=state), attempts, lease_ms=LEASE_MS)

    async def retire(self, i: int, _j: int) -> None:
        row = self.pool.rows[self._engine(i)]
        await retire_engine(self.pool.store, self.pool.name, row.engine_id, row.worker, EngineState.STOPPED, "")

    # Operators, keepers and time

    async def drain(self, i: int, j: int) -> None:
        await drain_engine(self.pool.store, self.pool.name, self._engine(i), drain=j == 0)

    async def keep(self, _i: int, _j: int) -> None:
        await retire_lapsed(self.pool)

    async def mend(self, i: int, j: int) -> None:
        """Somebody removes what is derived of a request, and a keeper puts it back."""
        keys, db, request_id = self.pool.keys, self.pool.store.commands, f"r{i}"
        record = await self.pool.record(request_id)
        if not record:
            return
        engine = record.get("engine", "")
        match record["state"]:
            case "waiting" if j < 2:
                await db.zrem(keys.waiting, request_id)
            case "queued" if j < 2:
                await db.xdel(keys.intake[int(record["priority"])], record["entry"])
            case "running" if j < 2:
                await db.hdel(keys.reservations(engine), request_id)
        await mend(self.pool.store, self.pool.name, request_id)
        await heal(self.pool.store, self.pool.name, list(ENGINES), grace_ms=LEASE_MS)

    async def wait(self, i: int, _j: int) -> None:
        self.pool.clock.advance(LEASE_MS * i / 4)

    # What they have in common

    @staticmethod
    def _engine(i: int) -> str:
        return ("e1", "e2")[i % 2]

    @staticmethod
    def _one_of(held: list[Holding], i: int) -> Holding | None:
        # Counted from the newest, which is the one that is likely to be right.
        return held[-1 - i % len(held)] if held else None

    @staticmethod
    def _fenced(holding: Holding) -> dict[str, Any]:
        return {
            "request_id": holding.request_id,
            "attempt": holding.attempt,
            "engine": holding.engine,
            "worker": holding.worker,
        }

    async def _expect(self, holding: Holding, done: bool) -> None:
        """Invariant 3: done if, and only if, it was the current attempt; refused, nothing has changed."""
        state = await read_state(self.pool.store, self.pool.keys)
        record: Fields = self.before.records[holding.request_id]
        row = self.before.engines[holding.engine].row
        owner = (
            row["worker"] == holding.worker != ""
            and record.get("engine") == holding.engine
            and record.get("attempt") == str(holding.attempt)
            and record["state"] in ("assigned", "running")
        )
        assert done == owner, f"{holding} {'did' if done else 'could not do'} it"
        if not done:
            # One more announcement of room that is there is no change.
            assert replace(state, announced=0) == replace(self.before, announced=0)
