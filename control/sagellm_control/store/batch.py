"""Batches that form by what is ready: while one write is under way, the next batch collects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Turns single submissions into batches, with one write under way at a time and no timer.

    Args:
        write: carries out a batch and answers each item, in order. An exception reaches every submitter of the batch.
        limit: most items in a batch.
        abandoned: told of an item whose submitter was cancelled while it was being written, with its answer; None: the
            write failed, so that nobody knows.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        limit: int,
        abandoned: Callable[[Item, Answer | None], None] | None = None,
    ) -> None:
        self._write = write
        self._limit = limit
        self._abandoned = abandoned
        self._pending: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            await self._writer

    async def submit(self, item: Item) -> Answer:
        """Add the item to the next batch and wait for its answer."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending.append((item, answer))
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain(), name="batch-writer")
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.cancelled():
                # It was answered in the very turn in which its submitter was cancelled: nobody else has the answer.
                self._tell_abandoned(item, None if answer.exception() else answer.result())
            raise

    def _tell_abandoned(self, item: Item, answer: Answer | None) -> None:
        if self._abandoned is not None:
            self._abandoned(item, answer)

    async def _drain(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending[: self._limit], self._pending[self._limit :]
                # Nobody waits for the answer to a cancelled one, and nothing has been done about it yet.
                batch = [(item, future) for item, future in batch if not future.done()]
                if not batch:
                    continue
                try:
                    answers = await self._write([item for item, _ in batch])
                except Exception as error:
                    for item, future in batch:
                        if not future.done():
                            future.set_exception(error)
                        else:
                            self._tell_abandoned(item, None)
                    continue
                for (item, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
                    else:
                        self._tell_abandoned(item, answer)
        finally:
            self._writer = None
