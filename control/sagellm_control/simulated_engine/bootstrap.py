"""Prefill and decode in a pair, as SGLang's engines do it: both get the request, and the room in which they meet.

The prefilling engine waits in the room until the decoding one has come, reads the prompt, and lets it go on. Here no
block is ever moved, and the bootstrap server is the prefilling engine's own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import aiohttp
import orjson
from aiohttp import web

from .kv_transfer import TransferCounts
from .refusal import Refusal
from .request_body import RequestBody
from .settings import SimulatedEngineSettings

PATH = "/simulated/bootstrap"
WAIT_S = 300.0
"""For the other engine, as SGLang has it."""


@dataclass(slots=True)
class Room:
    """Where two engines meet."""

    met: asyncio.Event = field(default_factory=asyncio.Event)
    read: asyncio.Event = field(default_factory=asyncio.Event)
    left: bool = False
    """The prompt will not be read."""


class Rooms:
    """Those of one engine; of a decoding one: the way to the others'."""

    def __init__(self, settings: SimulatedEngineSettings, counts: TransferCounts) -> None:
        self._mode = settings.disaggregation
        self._slots = settings.slots
        self._counts = counts
        self._rooms: dict[int, Room] = {}

    def routes(self) -> list[web.RouteDef]:
        return [web.get(f"{PATH}/{{room}}", self.meet), web.get("/server_info", self.server_info)]

    async def enter(self, body: RequestBody) -> int:
        """Wait for the partner: of a prompt until somebody wants it, of an answer until its prompt has been read."""
        room = body.integer("bootstrap_room")
        if room is None:
            raise Refusal(500, "bootstrap_room should not be None")
        if self._mode == "decode":
            await self._fetch(f"http://{body.text('bootstrap_host')}:{body.integer('bootstrap_port')}{PATH}/{room}")
            self._counts.prefills_fetched += 1
            return room
        try:
            async with asyncio.timeout(WAIT_S):
                await self._rooms.setdefault(room, Room()).met.wait()
        except BaseException:
            self.leave(room, read=False)
            raise
        self._counts.prompts_read += 1
        self._counts.prefills_kept += 1
        return room

    def leave(self, room: int, *, read: bool) -> None:
        """The prefilling engine has (not) read the prompt."""
        if entered := self._rooms.pop(room, None):
            entered.left = not read
            entered.read.set()

    async def meet(self, request: web.Request) -> web.Response:
        """The decoding engine comes."""
        room = self._rooms.setdefault(int(request.match_info["room"]), Room())
        room.met.set()
        async with asyncio.timeout(WAIT_S):
            await room.read.wait()
        return web.Response(status=409 if room.left else 200)

    async def server_info(self, request: web.Request) -> web.Response:
        """As SGLang tells it."""
        here = request.transport and request.transport.get_extra_info("sockname")
        info = {
            "version": "simulated",
            "disaggregation_mode": self._mode,
            "disaggregation_bootstrap_port": here[1] if here else 0,
            "internal_states": [{"effective_max_running_requests_per_dp": self._slots}],
        }
        return web.Response(body=orjson.dumps(info), content_type="application/json")

    @staticmethod
    async def _fetch(url: str) -> None:
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                status = answer.status
        except aiohttp.ClientError as error:
            raise Refusal(500, f"KVTransferError: {error}") from error
        if status != 200:
            raise Refusal(500, f"KVTransferError: the prefilling engine answered {status}")
