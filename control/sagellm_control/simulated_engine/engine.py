"""The engine that all endpoints share: settings, batcher, faults and what became of the requests."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass

from aiohttp import web

from .batcher import Batcher, IterationCost
from .bootstrap import Rooms
from .clock import Clock
from .faults import Faults
from .kv_transfer import KvTransfers
from .refusal import Refusal
from .settings import SimulatedEngineSettings


@dataclass(slots=True)
class RequestCounts:
    """Requests for text or vectors: each is in `total` and, once over, in one of the others."""

    total: int = 0
    finished: int = 0
    aborted: int = 0
    refused: int = 0
    faulted: int = 0


class Engine:
    def __init__(self, settings: SimulatedEngineSettings, clock: Clock | None = None) -> None:
        cost = IterationCost(
            settings.prefill_tokens_per_s,
            settings.prefill_chunk_tokens,
            settings.tpot_ms,
            settings.tpot_per_running_ms,
        )
        self.settings = settings
        self.batcher = Batcher(settings.slots, cost, clock)
        self.faults = Faults(settings)
        self.counts = RequestCounts()
        self.transfers = KvTransfers()
        self.rooms = Rooms(settings, self.transfers.counts) if settings.disaggregation else None
        self.stopping = asyncio.Event()
        self._authorization = f"Bearer {settings.api_key}".encode() if settings.api_key else None

    def check_key(self, request: web.Request) -> None:
        if self._authorization is None:
            return
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._authorization):
            raise Refusal(401, "Incorrect API key: send the key of this engine as Authorization: Bearer <key>")

    def refusal_response(self, refusal: Refusal, *, retry_after_s: int = 0) -> web.Response:
        headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
        body = refusal.body(self.settings.wire)
        return web.Response(status=refusal.status, body=body, content_type="application/json", headers=headers)
