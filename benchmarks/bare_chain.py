"""The same hops with nothing in them: what a queue between client and engine costs before it keeps any promise.

python -m benchmarks.bare_chain gateway PORT REDIS_URL
python -m benchmarks.bare_chain worker ENGINE_PORT REDIS_URL

Gateway → stream → worker → engine → log and channel → gateway, with the libraries of the real ones (aiohttp, redis-py),
used as their manuals show. No order, no choice of an engine, no lease, no fencing, no cancelling, no limits, no counts,
no errors. It stands beside the real chain in ``benchmarks.latency``, as how long it takes depends on the machine alone.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Any

import aiohttp
import redis.asyncio as redis
import uvloop
from aiohttp import web

WORK, GROUP, OUTPUT = "bare:work", "workers", "bare:output"
_LAST = b"data: [DONE]\n\n"


def connect(url: str) -> Any:
    """A client that may wait as long as it takes, with the answers' older form."""
    return redis.Redis.from_url(url, protocol=2, socket_timeout=None, max_connections=10_000)


class Gateway:
    """Hands chats in, and hands on what is published of their answers."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._pieces: dict[bytes, asyncio.Queue[bytes]] = {}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        name = uuid.uuid4().hex.encode()
        pieces = self._pieces[name] = asyncio.Queue()
        await self._server.xadd(WORK, {"id": name, "body": await request.read()})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            piece = await pieces.get()
            await response.write(piece)
            if piece.endswith(_LAST):
                break
        del self._pieces[name]
        return response

    async def health(self, _: web.Request) -> web.StreamResponse:
        """Say that there is a gateway, and that it listens."""
        return web.Response()

    async def listen(self, listener: Any) -> None:
        """Sort what is published, for ever."""
        async for message in listener.listen():
            if message["type"] == "message":
                name, _, piece = message["data"].partition(b" ")
                self._pieces[name].put_nowait(piece)


async def gateway(port: int, redis_url: str) -> None:
    """The whole process."""
    of_server, listener = Gateway(connect(redis_url)), connect(redis_url).pubsub()
    await listener.subscribe(OUTPUT)
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", of_server.chat), web.get("/health", of_server.health)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await of_server.listen(listener)


async def worker(engine_port: int, redis_url: str) -> None:
    """The whole process."""
    server, reader = connect(redis_url), connect(redis_url)
    await server.xgroup_create(WORK, GROUP, "0", mkstream=True)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as engine, asyncio.TaskGroup() as tasks:

        async def run(name: bytes, body: bytes) -> None:
            headers = {"Content-Type": "application/json"}
            url = f"http://127.0.0.1:{engine_port}/v1/chat/completions"
            async with engine.post(url, data=body, headers=headers) as answer:
                async for piece in answer.content.iter_any():
                    commands = server.pipeline(transaction=False)
                    commands.xadd(b"bare:log:" + name, {"piece": piece})
                    commands.publish(OUTPUT, name + b" " + piece)
                    await commands.execute()
            await server.unlink(b"bare:log:" + name)

        while True:
            for _, entries in await reader.xreadgroup(GROUP, "worker", {WORK: ">"}, count=100, block=0, noack=True):
                for _, fields in entries:
                    tasks.create_task(run(fields[b"id"], fields[b"body"]))


if __name__ == "__main__":
    uvloop.run({"gateway": gateway, "worker": worker}[sys.argv[1]](int(sys.argv[2]), sys.argv[3]))
