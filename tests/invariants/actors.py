"""Gateways, schedulers, workers and keepers that do one step at a time, on what they knew some steps ago."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sagellm_control.keeper.lapses import LapseKeeper
from sagellm_control.store.steps.admit import Admission
from sagellm_control.store.steps.assign import Placement
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import Held, drain_engine, register_engine, renew_engine, retire_engine
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.store.steps.take import ensure_groups, reclaim
from sagellm_control.store.waiting_line import Waiting, WaitingLine
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import EngineState, Outcome

from ..pool_driver import BROKEN, DONE, LEASE_MS, PoolDriver
from ..pool_state import Fields, PoolState, read_state, violations

ENGINES = {"e1": 1, "e2": 2}
CONSUMERS = ("s1", "s2")
CAUSES = tuple(Cause)
ENDINGS = (DONE, Ending(Outcome.REFUSED, 400), Ending(Outcome.CANCELLED, 499), Ending(Outcome.EXPIRED, 504))


@dataclass(frozen=True)
class Holding:
    """What a worker believes to run: it may be wrong by now."""

    request_id: str
    attempt: int
    engine: str
    worker: str


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

    async def start(self) -> None:
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
        assert violations(state) == []
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

    # Gateways

    async def accept(self, i: int, j: int) -> None:
        # Every other one may be gone on with by another attempt.
        await self.pool.accept(
            f"r{i}", timeout_ms=0 if j else 2 * LEASE_MS, ticket=f"ticket-{j}", stream=True, continuable=i % 2 == 0
        )

    async def cancel(self, i: int, j: int) -> None:
        outcome = Outcome.EXPIRED if j == 0 else Outcome.CANCELLED
        await cancel(self.pool.store, self.pool.name, f"r{i}", outcome)

    # Schedulers

    async def take(self, i: int, j: int) -> None:
        consumer = CONSUMERS[i % 2]
        taken = await self.pool.take(consumer, arrivals=1 + j)
        self.hands[consumer] += [self.pool.admission(entry) for entry in taken.arrivals]

    async def reclaim(self, i: int, _j: int) -> None:
        consumer = CONSUMERS[i % 2]
        taken = await reclaim(self.pool.store, self.pool.keys, consumer, idle_ms=0)
        self.hands[consumer] += [self.pool.admission(entry) for entry in taken.arrivals]

    async def admit(self, i: int, j: int) -> None:
        consumer = CONSUMERS[i % 2]
        engine = (None, "e1", "e2", "e2")[j]
        hand = self.hands[consumer]
        # The first of them only, at times: it dies in between or goes on later.
        now = hand if i < 4 else hand[:1]
        self.hands[consumer] = [] if i < 6 else hand
        await self.pool.admit(*(replace(admission, engine=engine) for admission in now))

    async def look(self, i: int, _j: int) -> None:
        self.heads[CONSUMERS[i % 2]] = await WaitingLine(self.pool.store, self.pool.name).read(0, 4)

    async def assign(self, i: int, j: int) -> None:
        engine = ("e1", "e2", "e2", None)[j]
        head = self.heads[CONSUMERS[i % 2]][: 1 + i // 2]
        await self.pool.assign(*(Placement(waiting.arrival.id, waiting.attempts, engine) for waiting in head))

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
        await LapseKeeper(self.pool.store, self.pool.name).look()

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
            assert state == self.before
