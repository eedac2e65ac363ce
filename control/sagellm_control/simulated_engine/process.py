"""The simulated engine as a process, and as a context for tests."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvloop
from aiohttp import web

from .app import build_app
from .clock import Clock
from .settings import SimulatedEngineSettings

log = logging.getLogger(__name__)

# An engine that stops cuts its answers, as real ones do; this is for what is about to end anyway.
STOP_GRACE_S = 0.5


@asynccontextmanager
async def serve(settings: SimulatedEngineSettings, clock: Clock | None = None) -> AsyncGenerator[str, None]:
    """Serve while the context is open; gives the base URL, with the port that was taken when settings say 0.

    Raises OSError naming host and port when it cannot listen there.
    """
    runner = web.AppRunner(
        build_app(settings, clock), handler_cancellation=True, access_log=None, shutdown_timeout=STOP_GRACE_S
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(
                error.errno,
                f"engine cannot listen on {settings.host}:{settings.port} ({reason}): set another port",
            ) from error
        port: int = runner.addresses[0][1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def run(settings: SimulatedEngineSettings) -> None:
    """Serve until SIGTERM, SIGINT or cancellation, then stop in order."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    async with serve(settings) as url:
        log.info("engine listens on %s: %s, %d slots", url, ", ".join(settings.models), settings.slots)
        for number in signals:
            loop.add_signal_handler(number, stop.set)
        try:
            await stop.wait()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


def main(settings: SimulatedEngineSettings) -> None:
    """The whole process, on the fast event loop."""
    uvloop.run(run(settings))
