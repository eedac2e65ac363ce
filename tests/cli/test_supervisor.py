"""The supervisor: starting again, order of stopping, deadlines, and no patience."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sagellm_control.cli.supervisor import Backoff, ServiceDied, Supervisor

AT_ONCE = Backoff(first_s=0.001, most_s=0.002, steady_s=60)


class Dummy:
    """A service that ends when it is told to."""

    def __init__(self, name: str, journal: list[str], *, stubborn: bool = False) -> None:
        self.name = name
        self.starts = 0
        self.fails_to_start = 0
        self.dies_at_start: int | None = None
        self._journal = journal
        self._stubborn = stubborn
        self._over = asyncio.Event()
        self._code = 0
        self._started = asyncio.Condition()

    async def start(self) -> None:
        self._journal.append(f"start {self.name}")
        self.starts += 1
        if self.fails_to_start:
            self.fails_to_start -= 1
            raise OSError("no room")
        self._over.clear()
        if self.dies_at_start is not None:
            self.die(self.dies_at_start)
        async with self._started:
            self._started.notify_all()

    async def wait(self) -> int:
        await self._over.wait()
        return self._code

    async def stop(self, deadline_s: float) -> bool:
        self._journal.append(f"stop {self.name}")
        if self._stubborn:
            try:
                await asyncio.wait_for(self._over.wait(), deadline_s)
            except TimeoutError:
                self.die(-9)
                return False
        self.die(0)
        return True

    def kill(self) -> None:
        self._journal.append(f"kill {self.name}")
        self.die(-9)

    def last_lines(self) -> list[str]:
        return [f"last words of {self.name}"]

    def die(self, code: int) -> None:
        self._code = code
        self._over.set()

    async def started(self, times: int) -> None:
        async with asyncio.timeout(10), self._started:
            await self._started.wait_for(lambda: self.starts >= times)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a predicate over what other tasks did, not a poll of the outside
            await asyncio.sleep(0)


async def supervise(journal: list[str], *services: Dummy) -> None:
    """Start them one stage after another and wait for a death."""
    async with Supervisor(journal.append, stop_within_s=10) as supervisor:
        for stage, service in enumerate(services):
            await supervisor.start(stage, service)
        await asyncio.wait_for(supervisor.died(), 10)


async def test_stops_stage_by_stage_from_the_top() -> None:
    journal: list[str] = []
    async with Supervisor(journal.append, stop_within_s=10) as supervisor:
        for stage, name in ((0, "store"), (2, "worker"), (1, "engine"), (3, "gateway-1"), (3, "gateway-2")):
            await supervisor.start(stage, Dummy(name, journal))
    assert journal[5:7] == ["stop gateway-1", "stop gateway-2"]
    assert journal[7:] == ["stop worker", "stop engine", "stop store"]


async def test_a_death_before_all_is_ready_is_an_error() -> None:
    journal: list[str] = []
    service = Dummy("gateway", journal)
    service.dies_at_start = 2
    with pytest.raises(ServiceDied, match=r"(?s)gateway ended \(exit code 2\).*last words of gateway"):
        await supervise(journal, service)
    assert service.starts == 1


async def test_what_dies_later_is_started_again_and_told() -> None:
    journal: list[str] = []
    service, other = Dummy("worker", journal), Dummy("other", journal)
    async with Supervisor(journal.append, stop_within_s=10, backoff=AT_ONCE) as supervisor:
        await supervisor.start(0, service, other)
        supervisor.keep_alive()
        for times in (2, 3, 4):
            service.die(-9)
            await service.started(times)
            await until(lambda: journal[-1] == "worker is started again")
    told = [line for line in journal if line.startswith("worker ended")]
    assert len(told) == 3
    assert told[0] == (
        "worker ended (killed by SIGKILL); starting it again in 0.001 s; its last lines:"
        "\n  worker | last words of worker"
    )
    assert "in 0.002 s" in told[2]
    assert other.starts == 1


async def test_one_that_ran_for_long_is_started_again_soon() -> None:
    journal: list[str] = []
    service = Dummy("worker", journal)
    backoff = Backoff(first_s=0.001, most_s=1000, steady_s=0)
    async with Supervisor(journal.append, stop_within_s=10, backoff=backoff) as supervisor:
        await supervisor.start(0, service)
        supervisor.keep_alive()
        for times in range(2, 30):
            service.die(1)
            await service.started(times)
            await until(lambda: journal[-1] == "worker is started again")


async def test_one_that_cannot_be_started_again_is_tried_again() -> None:
    journal: list[str] = []
    service = Dummy("valkey", journal)
    async with Supervisor(journal.append, stop_within_s=10, backoff=AT_ONCE) as supervisor:
        await supervisor.start(0, service)
        supervisor.keep_alive()
        service.fails_to_start = 2
        service.die(1)
        await service.started(4)
        await until(lambda: journal[-1] == "valkey is started again")
    assert "valkey: no room" in journal


async def test_the_stop_interrupts_the_wait_before_a_start() -> None:
    journal: list[str] = []
    service = Dummy("worker", journal)
    backoff = Backoff(first_s=1000, most_s=1000)
    async with asyncio.timeout(10):
        async with Supervisor(journal.append, stop_within_s=10, backoff=backoff) as supervisor:
            await supervisor.start(0, service)
            supervisor.keep_alive()
            service.die(1)
            await until(lambda: journal[-1].startswith("worker ended"))
    assert service.starts == 1


async def test_a_stubborn_one_is_told_of() -> None:
    journal: list[str] = []
    async with Supervisor(journal.append, stop_within_s=0.01) as supervisor:
        await supervisor.start(0, Dummy("worker", journal, stubborn=True))
    assert journal[-1] == "worker did not stop within 0.01 s and was killed"


async def test_kill_ends_a_stop_that_waits() -> None:
    journal: list[str] = []
    supervisor = Supervisor(journal.append, stop_within_s=1000)

    async def run() -> None:
        async with supervisor:
            await supervisor.start(0, Dummy("store", journal, stubborn=True))
            await supervisor.start(1, Dummy("worker", journal, stubborn=True))

    running = asyncio.create_task(run())
    await until(lambda: "stop worker" in journal)
    supervisor.kill()
    async with asyncio.timeout(10):
        await running
    assert journal[-3:] == ["kill store", "kill worker", "stop store"]


async def test_what_was_started_is_stopped_when_a_later_start_fails() -> None:
    journal: list[str] = []
    broken = Dummy("broken", journal)
    broken.fails_to_start = 1
    with pytest.raises(OSError, match="no room"):
        await supervise(journal, Dummy("store", journal), broken)
    assert journal[-1] == "stop store"
