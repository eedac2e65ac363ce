"""Iterations of the batcher on a clock that tests move: slots, order, costs and aborts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest

from sagellm_control.simulated_engine.batcher import Batcher, IterationCost, Work

FREE = IterationCost(0, 2048, 0, 0)


class JumpingClock:
    """Time passes only by sleeping, and then at once."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now(self) -> float:
        return self.time_s

    async def sleep_until(self, when: float) -> None:
        self.time_s = max(self.time_s, when)
        await asyncio.sleep(0)


class HeldClock(JumpingClock):
    """Stands still until `release` is called: the batcher stays in the middle of an iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeping = asyncio.Event()
        self._wake = asyncio.Event()

    def release(self) -> None:
        self.sleeping.clear()
        self._wake.set()

    async def sleep_until(self, when: float) -> None:
        self.sleeping.set()
        await self._wake.wait()
        self._wake.clear()
        await super().sleep_until(when)


@asynccontextmanager
async def running(batcher: Batcher) -> AsyncGenerator[None, None]:
    task = asyncio.create_task(batcher.run())
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def finish(batcher: Batcher, works: list[Work]) -> None:
    for work in works:
        batcher.submit(work)
    async with running(batcher):
        for work in works:
            await work.done


async def test_one_answer_costs_its_prefill_and_then_a_tpot_for_each_further_token() -> None:
    clock = JumpingClock()
    work = Work(prompt_tokens=1000, length=5)
    await finish(Batcher(4, IterationCost(10_000, 2048, 10, 1), clock), [work])
    assert work.first_token_at - work.submitted_at == pytest.approx(0.1)
    assert work.finished_at - work.first_token_at == pytest.approx(4 * 0.010)


async def test_every_further_running_answer_makes_tokens_slower() -> None:
    clock = JumpingClock()
    works = [Work(1, 11) for _ in range(5)]
    await finish(Batcher(8, IterationCost(0, 2048, 10, 1), clock), works)
    for work in works:
        assert work.first_token_at == work.submitted_at
        assert work.finished_at - work.first_token_at == pytest.approx(10 * (0.010 + 4 * 0.001))


async def test_a_long_prompt_is_read_in_chunks_between_the_tokens_of_others() -> None:
    clock = JumpingClock()
    batcher = Batcher(2, IterationCost(1000, 100, 10, 0), clock)
    made: list[tuple[str, float]] = []
    short = Work(100, 4, emit=lambda index: made.append(("short", clock.time_s)))
    long = Work(250, 1, emit=lambda index: made.append(("long", clock.time_s)))
    await finish(batcher, [short, long])
    start = short.submitted_at
    expected = [("short", 0.1), ("short", 0.21), ("short", 0.32), ("short", 0.38), ("long", 0.38)]
    assert [name for name, _ in made] == [name for name, _ in expected]
    assert [when - start for _, when in made] == pytest.approx([when for _, when in expected])


async def test_chunk_left_over_by_one_prompt_goes_to_the_next() -> None:
    clock = JumpingClock()
    works = [Work(30, 1), Work(30, 1), Work(30, 1), Work(30, 1)]
    await finish(Batcher(4, IterationCost(1000, 100, 0, 0), clock), works)
    waits = [work.first_token_at - work.submitted_at for work in works]
    assert waits == pytest.approx([0.1, 0.1, 0.1, 0.12])


async def test_no_more_than_slots_run_and_the_others_wait_in_order() -> None:
    batcher = Batcher(3, FREE)
    order: list[int] = []
    seen: list[int] = []

    def note(number: int, index: int) -> None:
        seen.append(batcher.running)
        if index == 0:
            order.append(number)

    works = [Work(1, 1 + number % 3) for number in range(20)]
    for number, work in enumerate(works):
        work.emit = lambda index, number=number: note(number, index)
    await finish(batcher, works)
    assert order == list(range(20))
    assert max(seen) == batcher.peak_running == 3
    assert (batcher.running, batcher.waiting) == (0, 0)
    assert batcher.generated_tokens == sum(work.length for work in works)


async def test_running_answers_take_turns() -> None:
    made: list[str] = []
    works = [Work(1, 3, emit=lambda index, name=name: made.append(f"{name}{index}")) for name in "ab"]
    await finish(Batcher(2, FREE), works)
    assert made == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_the_event_loop_turns_between_two_tokens() -> None:
    turns = 0
    turns_at_token: list[int] = []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count_turns())
    await finish(Batcher(1, FREE), [Work(1, 20, emit=lambda index: turns_at_token.append(turns))])
    counter.cancel()
    assert len(set(turns_at_token)) == 20


async def test_work_without_tokens_only_reads() -> None:
    clock = JumpingClock()
    work = Work(500, 0)
    await finish(Batcher(1, IterationCost(1000, 2048, 10, 0), clock), [work])
    assert work.finished_at - work.submitted_at == pytest.approx(0.5)
    assert work.emitted == 0


async def test_abort_frees_the_slot_at_once_even_in_mid_iteration() -> None:
    clock = HeldClock()
    batcher = Batcher(1, IterationCost(0, 2048, 10, 0), clock)
    emitted: list[int] = []
    first, second, third = Work(1, 3, emit=emitted.append), Work(1, 1), Work(1, 1)
    async with running(batcher):
        for work in (first, second, third):
            batcher.submit(work)
        await clock.sleeping.wait()
        assert (batcher.running, batcher.waiting) == (1, 2)
        batcher.abort(first)
        batcher.abort(second)
        assert (batcher.running, batcher.waiting) == (0, 1)
        clock.release()
        await third.done
    assert first.done.cancelled()
    assert second.done.cancelled()
    assert emitted == [0]


async def test_abort_of_what_is_over_changes_nothing() -> None:
    batcher = Batcher(1, FREE)
    work = Work(1, 1)
    await finish(batcher, [work])
    batcher.abort(work)
    assert work.done.result() is None


async def test_stopping_cancels_what_is_left_and_what_comes_later() -> None:
    clock = HeldClock()
    batcher = Batcher(1, IterationCost(0, 2048, 10, 0), clock)
    running_work, waiting_work, late_work = Work(1, 3), Work(1, 3), Work(1, 3)
    async with running(batcher):
        batcher.submit(running_work)
        batcher.submit(waiting_work)
        await clock.sleeping.wait()
    batcher.submit(late_work)
    assert all(work.done.cancelled() for work in (running_work, waiting_work, late_work))


async def test_timers_that_fire_late_do_not_slow_it_down() -> None:
    class LateClock(JumpingClock):
        async def sleep_until(self, when: float) -> None:
            await super().sleep_until(when)
            self.time_s += 0.004

    clock = LateClock()
    work = Work(1, 101)
    await finish(Batcher(1, IterationCost(0, 2048, 10, 0), clock), [work])
    assert work.finished_at - work.submitted_at == pytest.approx(100 * 0.010, abs=0.005)
