"""The composition root: one engine, its batching loop, and the endpoints of its wire."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from aiohttp import web

from .clock import Clock
from .engine import Engine
from .inspection import InspectionEndpoints
from .openai_endpoints import OpenAIEndpoints
from .sagellm_endpoints import SagellmEndpoints
from .settings import SimulatedEngineSettings

_BYTES_PER_MIB = 1024 * 1024


def build_app(settings: SimulatedEngineSettings, clock: Clock | None = None) -> web.Application:
    """An aiohttp application. Run it with handler_cancellation, or clients that leave keep their slots."""
    engine = Engine(settings, clock)
    app = web.Application(client_max_size=settings.max_body_mb * _BYTES_PER_MIB)
    if settings.wire == "sagellm":
        app.add_routes(SagellmEndpoints(engine).routes())
    else:
        app.add_routes(OpenAIEndpoints(engine, started_at=int(time.time())).routes())
        if engine.rooms is not None:
            app.add_routes(engine.rooms.routes())
    app.add_routes(InspectionEndpoints(engine).routes())

    async def batching(_: web.Application) -> AsyncIterator[None]:
        loop = asyncio.create_task(engine.batcher.run(), name="simulated-engine-batcher")
        yield
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop

    async def release_hanging(_: web.Application) -> None:
        engine.stopping.set()

    app.cleanup_ctx.append(batching)
    app.on_shutdown.append(release_hanging)
    return app
