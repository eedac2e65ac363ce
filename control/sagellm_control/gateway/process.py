"""A gateway process."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from ..client.queue_client import QueueClient
from ..stopping import run_until, stop_requested
from ..store.connect import Store, open_store
from ..store.settings import RedisSettings
from .admin_endpoints import AdminEndpoints
from .api_keys_file import ApiKeysFile
from .app import make_app
from .connections import listen
from .endpoints import OpenAIEndpoints
from .fast_path import GatewayFastPath
from .request_endpoints import RequestEndpoints
from .settings import GatewaySettings
from .status_endpoints import StatusEndpoints

log = logging.getLogger(__name__)

LINGER_S = 0.25
"""After the listener is closed, connections stay for so long (s): a request may be on its way on them."""
TELL_S = 1.0
"""Who is told that its answer will not be complete in time has so long (s) to read that."""


async def run(settings: GatewaySettings, redis: RedisSettings) -> None:
    """Serve until SIGTERM or SIGINT, then let open answers finish, for ``shutdown_s`` at most.

    While Redis is away it is alive and not ready, from its start on; unless it is not to wait (``redis.wait``).
    """
    async with (
        stop_requested() as stop,
        open_store(redis, check=not redis.wait) as store,
        serve_from(settings, store, at_once=True) as url,
    ):
        log.info("gateway listens on %s", url)
        await run_until(stop, store.wait())
        await stop.wait()


@asynccontextmanager
async def serve(settings: GatewaySettings, redis: RedisSettings) -> AsyncGenerator[str, None]:
    """A running gateway that has reached Redis; gives its URL.

    Raises:
        OSError: the address cannot be listened on.
        ApiKeysUnreadable, StoreUnreachable, StoreUnusable: the settings cannot work.
    """
    async with open_store(redis) as store, serve_from(settings, store) as url:
        yield url


@asynccontextmanager
async def serve_from(settings: GatewaySettings, store: Store, *, at_once: bool = False) -> AsyncGenerator[str, None]:
    """A running gateway on this store; ``at_once``: whether or not Redis can be reached."""
    keys = ApiKeysFile(settings.api_keys) if settings.api_keys else None
    _allow_many_connections()
    async with AsyncExitStack() as stack:
        if keys is not None:
            following = asyncio.create_task(keys.run(), name="follow API keys")
            stack.callback(following.cancel)
        fast_path = await stack.enter_async_context(GatewayFastPath(store)) if settings.fast_path else None
        queue = QueueClient(store, settings.accept_limits(), fast_path=fast_path)
        await stack.enter_async_context(queue.running(at_once=at_once))
        openai = OpenAIEndpoints(queue, settings, keys)
        requests = RequestEndpoints(queue, settings, openai)
        admin = AdminEndpoints(queue, settings, openai)
        app = make_app(settings, openai, requests, StatusEndpoints(queue, openai), admin)
        # A handler is cancelled when its client leaves: that is how a request is known to be abandoned.
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            # aiohttp waits for so long twice, and then cuts; nobody is left when it is over once (see ``_end_after``).
            shutdown_timeout=settings.shutdown_s + 2 * TELL_S,
        )
        await runner.setup()
        try:
            listener = await listen(runner, settings.host, settings.port)
            host, port = listener.sockets[0].getsockname()[:2]
            try:
                yield f"http://{host}:{port}"
            finally:
                openai.stopping = True
                ending = asyncio.create_task(_end_after(settings.shutdown_s, runner, openai), name="end of shutdown")
                stack.callback(ending.cancel)
                # Nobody new gets in; who is connected already may be about to send a request.
                listener.close()
                if runner.server is not None and runner.server.connections:
                    await asyncio.sleep(min(LINGER_S, settings.shutdown_s / 20))
                # aiohttp drops from here on what it receives.
                openai.closing.end_reading()
        finally:
            await runner.cleanup()


async def _end_after(shutdown_s: float, runner: web.AppRunner, openai: OpenAIEndpoints) -> None:
    """Tell whoever still waits after so long (s); whoever does not even read that is cut."""
    await asyncio.sleep(shutdown_s)
    if ended := openai.closing.end():
        log.warning("requests that were not answered within %g s, and whose clients are told so: %d", shutdown_s, ended)
    await asyncio.sleep(TELL_S)
    connections = runner.server.connections if runner.server is not None else []
    if connections:
        log.warning("connections that were still open %g s later, and are cut: %d", TELL_S, len(connections))
    for connection in connections:
        if connection.transport is not None:
            # To close it would be to wait until all that was written has been read.
            connection.transport.abort()


def _allow_many_connections() -> None:
    """Each open stream is a file descriptor; the soft limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        wanted = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
        if wanted > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
