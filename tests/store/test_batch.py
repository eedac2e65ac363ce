"""Batcher: batches form by what is ready, one write at a time, and nobody waits for a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sagellm_control.store.batch import Batcher


class SlowWriter:
    """Writes when it is let, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Semaphore(0)
        self.broken = False

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.gate.acquire()
        if self.broken:
            raise ConnectionError("no server")
        return [10 * item for item in items]


async def test_the_first_goes_at_once_and_the_next_batch_collects_meanwhile() -> None:
    write = SlowWriter()
    async with Batcher(write, limit=3) as batcher:
        answers = [asyncio.create_task(batcher.submit(n)) for n in range(1)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert write.batches == [[0]]
        answers += [asyncio.create_task(batcher.submit(n)) for n in range(1, 6)]
        await asyncio.sleep(0)
        assert write.batches == [[0]]
        for _ in range(3):
            write.gate.release()
        assert await asyncio.gather(*answers) == [0, 10, 20, 30, 40, 50]
    assert write.batches == [[0], [1, 2, 3], [4, 5]]


async def test_an_error_reaches_all_of_its_batch_and_no_other() -> None:
    write = SlowWriter()
    async with Batcher(write, limit=2) as batcher:
        write.broken = True
        first = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        write.gate.release()
        for task in first:
            with pytest.raises(ConnectionError, match="no server"):
                await task
        write.broken = False
        write.gate.release()
        assert await batcher.submit(3) == 30


async def test_one_that_is_cancelled_does_not_stop_the_others() -> None:
    write = SlowWriter()
    async with Batcher(write, limit=10) as batcher:
        tasks = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[0].cancel()
        write.gate.release()
        assert await tasks[1] == 20
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]


async def test_leaving_waits_for_what_is_under_way() -> None:
    write = SlowWriter()
    async with Batcher(write, limit=10) as batcher:
        task = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        write.gate.release()
    assert await task == 10


async def test_what_was_written_for_one_that_left_is_told_after_the_others_have_their_answers() -> None:
    write = SlowWriter()
    told: list[tuple[int, int]] = []
    async with Batcher(write, limit=9, abandoned=lambda item, answer: told.append((item, answer))) as batcher:
        leaving = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        staying = asyncio.create_task(batcher.submit(2))
        early = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        early.cancel()
        await asyncio.sleep(0)
        write.gate.release()
        write.gate.release()
        assert await staying == 20
    assert told == [(1, 10)]
    assert write.batches == [[1], [2]]


async def test_one_that_left_before_a_write_failed_is_told_too() -> None:
    """The write may have been carried out all the same."""
    write = SlowWriter()
    write.broken = True
    told: list[tuple[int, int | None]] = []
    async with Batcher(write, limit=9, abandoned=lambda item, answer: told.append((item, answer))) as batcher:
        leaving = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        write.gate.release()
    assert told == [(1, None)]


async def test_one_that_leaves_in_the_turn_in_which_it_is_answered_is_told_too() -> None:
    write = SlowWriter()
    told: list[tuple[int, int | None]] = []
    async with Batcher(write, limit=9, abandoned=lambda item, answer: told.append((item, answer))) as batcher:

        async def answered_first() -> None:
            await batcher.submit(1)
            leaving.cancel()  # whose answer is there, and who has not gone on yet

        first = asyncio.create_task(answered_first())
        leaving = asyncio.create_task(batcher.submit(2))
        write.gate.release()
        await first
        with pytest.raises(asyncio.CancelledError):
            await leaving
    assert (write.batches, told) == ([[1, 2]], [(2, 20)])
