"""How every process of the system is asked to stop, and how its loops pause without missing that."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any


def terminal_signals() -> tuple[signal.Signals, ...]:
    """What stops a command that runs in a terminal.

    SIGHUP: the terminal was closed, and nobody is there to see or to stop it; unless it was started so that it goes on
    without one (``nohup``).
    """
    stops = (signal.SIGINT, signal.SIGTERM)
    return stops if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*stops, signal.SIGHUP)


@asynccontextmanager
async def stop_requested(
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> AsyncGenerator[asyncio.Event, None]:
    """An event that is set by any of these signals; the handlers are removed at the end."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    for number in signals:
        loop.add_signal_handler(number, event.set)
    try:
        yield event
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most so long (s; not above 0: not at all); whether it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def run_until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` until it ends or ``stop`` is set; then it is cancelled and awaited. Its error is raised. It does not
    begin if ``stop`` is set."""
    if stop.is_set():
        work.close()
        return
    running = asyncio.create_task(work, name="work")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, running):
            task.cancel()
        await asyncio.wait({running, stopping})
    if not running.cancelled() and (error := running.exception()):
        raise error
