"""Requests that take the places of an engine, or wait for them, as long as a test wants."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from sagellm_control.wire.states import RequestState

from .asking import post_chat
from .in_process import InProcessSystem


async def occupy(stack: AsyncExitStack, system: InProcessSystem, *ids: str, user: str = "", **headers: str) -> None:
    """Requests that run for ever or wait for that; the first is the one that runs."""
    for request_id in ids:
        sent = {"X-Request-ID": request_id} | {name.replace("_", "-"): value for name, value in headers.items()}
        asking = asyncio.ensure_future(post_chat(system, sent, stream=True, user=user).__aenter__())
        stack.push_async_callback(_leave, asking, system, request_id)
        await system.until(request_id, RequestState.RUNNING, RequestState.WAITING)


async def _leave(asking: asyncio.Future[Any], system: InProcessSystem, request_id: str) -> None:
    """Its place is free afterwards: a client's leaving takes a moment to get there."""
    if asking.done():
        asking.result().close()
    asking.cancel()
    await asyncio.wait({asking})
    await system.until(request_id, RequestState.FINISHED)
