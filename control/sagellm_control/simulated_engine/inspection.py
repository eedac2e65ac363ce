"""The endpoints that look at the engine and switch its faults, the same on every wire."""

from __future__ import annotations

from dataclasses import asdict

import orjson
from aiohttp import web

from .engine import Engine
from .metrics import EngineMetrics
from .refusal import Refusal
from .request_body import RequestBody


class InspectionEndpoints:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._metrics = EngineMetrics(engine)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self.health),
            web.get("/metrics", self.metrics),
            web.get("/simulated/state", self.state),
            web.get("/simulated/faults", self.faults),
            web.post("/simulated/faults", self.change_faults),
            web.route("*", "/{path:.*}", self.unknown_path),
        ]

    async def health(self, request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def state(self, request: web.Request) -> web.Response:
        """running, waiting, peak_running count answers (n > 1 makes several); the rest counts requests."""
        batcher, counts = self._engine.batcher, self._engine.counts
        over = asdict(counts)
        return _json(
            {
                "slots": batcher.slots,
                "running": batcher.running,
                "waiting": batcher.waiting,
                "peak_running": batcher.peak_running,
                "generated_tokens": batcher.generated_tokens,
                "total_requests": over.pop("total"),
                **over,
                **asdict(self._engine.transfers.counts),
                "faults": {kind.value: count for kind, count in self._engine.faults.made.items()},
            }
        )

    async def faults(self, request: web.Request) -> web.Response:
        return _json(self._engine.faults.settings.model_dump())

    async def change_faults(self, request: web.Request) -> web.Response:
        try:
            self._engine.faults.change(RequestBody.parse(await request.read()).fields)
        except Refusal as refusal:
            return self._engine.refusal_response(refusal)
        return await self.faults(request)

    async def unknown_path(self, request: web.Request) -> web.Response:
        text = f"{request.method} {request.path} is nothing this engine answers"
        return self._engine.refusal_response(Refusal(404, text, code="not_found"))


def _json(fields: dict[str, object]) -> web.Response:
    return web.Response(body=orjson.dumps(fields), content_type="application/json")
