"""Keeps services running: starts them, starts them again when they die, stops them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from ..embedded.child_process import describe


class Service(Protocol):
    """What a supervisor can keep running."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    async def start(self) -> None:
        """Start it; again after it has ended."""
        ...

    async def wait(self) -> int:
        """Wait until it ends; its exit code, negative for a signal."""
        ...

    async def stop(self, deadline_s: float) -> bool:
        """Ask it to end, and make it when the deadline has passed; whether it ended by itself."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def last_lines(self) -> list[str]:
        """The last lines of its log."""
        ...


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a dead service is started again."""

    first_s: float = 0.5
    most_s: float = 30.0
    steady_s: float = 60.0
    """A service that ran for so long was all right: the next wait is the first one again."""


class ServiceDied(Exception):
    """A service ended before everything was ready; the message shows the end of its log."""


@dataclass
class _Kept:
    service: Service
    stage: int
    halt: asyncio.Event = field(default_factory=asyncio.Event)
    watch: asyncio.Task[None] | None = None


class Supervisor:
    """Owns services from their start to their end.

    Services belong to stages. The end of ``async with`` stops them, the highest stage first, those of one
    stage together. Until ``keep_alive`` is called a death is taken for a mistake that starting again would
    not mend: ``died`` raises it. After that a dead service is started again.

    Args:
        tell: gets a line about each death, start and forced end.
        stop_within_s: the deadline of each stage.
    """

    def __init__(self, tell: Callable[[str], None], *, stop_within_s: float, backoff: Backoff | None = None) -> None:
        self._tell = tell
        self._stop_within_s = stop_within_s
        self._backoff = backoff or Backoff()
        self._kept: list[_Kept] = []
        self._tasks = asyncio.TaskGroup()
        self._keep_alive = False
        self._first_death = asyncio.Event()
        self._death = ""

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stop()
        finally:
            if error is None or isinstance(error, asyncio.CancelledError):
                await self._tasks.__aexit__(kind, error, trace)
            else:
                # The group would wrap it; whoever uses us need not know that there is one.
                await self._tasks.__aexit__(None, None, None)

    async def start(self, stage: int, *services: Service) -> None:
        """Start services one after another; each returns when it is launched, or ready, as it sees fit."""
        for service in services:
            kept = _Kept(service, stage)
            self._kept.append(kept)
            await service.start()
            kept.watch = self._tasks.create_task(self._watch(kept), name=f"watch {service.name}")

    async def died(self) -> None:
        """Wait for a death before ``keep_alive``.

        Raises:
            ServiceDied: always, when it comes.
        """
        await self._first_death.wait()
        raise ServiceDied(self._death)

    def keep_alive(self) -> None:
        """Everything is ready: from now on start again what dies."""
        self._keep_alive = True

    def kill(self) -> None:
        """End all services at once; somebody is out of patience."""
        for kept in self._kept:
            kept.halt.set()
            kept.service.kill()

    async def _watch(self, kept: _Kept) -> None:
        service = kept.service
        clock = asyncio.get_running_loop().time
        wait_s = self._backoff.first_s
        started = clock()
        runs = True
        while True:
            what = "could not be started"
            if runs:
                what = f"ended ({describe(await service.wait())})"
            if kept.halt.is_set():
                return
            if clock() - started > self._backoff.steady_s:
                wait_s = self._backoff.first_s
            lines = "".join(f"\n  {service.name} | {line}" for line in service.last_lines())
            if not self._keep_alive:
                self._death = f"{service.name} {what}; its last lines:{lines or ' none'}"
                self._first_death.set()
                return
            self._tell(f"{service.name} {what}; starting it again in {wait_s:g} s; its last lines:{lines or ' none'}")
            if await _set_within(kept.halt, wait_s):
                return
            wait_s = min(2 * wait_s, self._backoff.most_s)
            started = clock()
            runs = await self._start_again(kept)

    async def _start_again(self, kept: _Kept) -> bool:
        try:
            await kept.service.start()
        except Exception as error:
            # A port that somebody took meanwhile, a full disk: it may be over at the next try.
            if not kept.halt.is_set():
                self._tell(f"{kept.service.name}: {error}")
            return False
        if kept.halt.is_set():
            # The stop came while it was starting and found nothing to stop.
            await kept.service.stop(self._stop_within_s)
        else:
            self._tell(f"{kept.service.name} is started again")
        return True

    async def _stop(self) -> None:
        for stage in sorted({kept.stage for kept in self._kept}, reverse=True):
            await asyncio.gather(*(self._stop_one(kept) for kept in self._kept if kept.stage == stage))

    async def _stop_one(self, kept: _Kept) -> None:
        kept.halt.set()
        if not await kept.service.stop(self._stop_within_s):
            self._tell(f"{kept.service.name} did not stop within {self._stop_within_s:g} s and was killed")
        if kept.watch is not None:
            await asyncio.wait([kept.watch])


async def _set_within(event: asyncio.Event, wait_s: float) -> bool:
    try:
        async with asyncio.timeout(wait_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
