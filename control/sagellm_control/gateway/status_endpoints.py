"""What an operator and a load balancer ask: models, health, readiness, metrics."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from redis.exceptions import RedisError

from ..client.errors import NoEngineReady, QueueUnavailable, UnknownModel
from ..client.queue_client import QueueClient
from ..wire.engine import SERVED_BY
from .endpoints import OpenAIEndpoints
from .errors import from_queue
from .metrics import PoolCollector
from .request_ids import returned_ids


class StatusEndpoints:
    """Read-only endpoints; none of them asks Redis, but for the models while it has never been asked for them."""

    def __init__(self, queue: QueueClient, openai: OpenAIEndpoints) -> None:
        self._queue = queue
        self._openai = openai
        self._started = int(time.time())
        self._registry = CollectorRegistry()
        self._registry.register(PoolCollector(queue.pools))

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self.models),
            web.get("/v1/models/{model:.+}", self.model),
            web.get("/health", self.health),
            web.get("/ready", self.ready),
            web.get("/metrics", self.metrics),
        ]

    async def models(self, request: web.Request) -> web.Response:
        """The models that have an engine now."""
        self._openai.authenticate(request)
        models = [self._shown(name) for name in await self._available()]
        # Also where it lists none: by this a worker tells a gateway from an engine.
        listed = {"object": "list", "served_by": SERVED_BY, "data": models}
        return web.json_response(listed, headers=returned_ids(request))

    async def model(self, request: web.Request) -> web.Response:
        """One of them."""
        self._openai.authenticate(request)
        name = request.match_info["model"]
        if name not in await self._available():
            pools = self._queue.pools
            if pool := pools.models.get(name):
                raise from_queue(NoEngineReady(name, pools.retry_after_s(pool)))
            raise from_queue(UnknownModel(name, list(pools.models)))
        return web.json_response(self._shown(name), headers=returned_ids(request))

    async def _available(self) -> list[str]:
        pools = self._queue.pools
        if not pools.known:
            # A gateway that has only just started; its own first look may be on its way.
            try:
                await pools.look()
            except (RedisError, OSError) as error:
                if not pools.known:  # one pool of many may be on a server that is away
                    raise from_queue(QueueUnavailable(error)) from error
        return pools.available_models()

    def _shown(self, model: str) -> dict[str, Any]:
        ours = {"id": model, "object": "model", "created": self._started, "served_by": SERVED_BY}
        return {**ours, "owned_by": "sagellm", **self._queue.pools.card(model), **ours}

    async def health(self, request: web.Request) -> web.Response:
        """200 while the process lives."""
        return web.json_response({"status": "ok"}, headers=returned_ids(request))

    async def ready(self, request: web.Request) -> web.Response:
        """200 while Redis answers and the inbox is subscribed; else 503."""
        checks = {
            "redis": self._queue.pools.answered,
            "inbox": self._queue.inbox.subscribed.is_set(),
            "accepting": not self._openai.stopping,
        }
        ready = all(checks.values())
        body = {"status": "ready" if ready else "not ready", "checks": checks}
        return web.json_response(body, status=200 if ready else 503, headers=returned_ids(request))

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text format."""
        body = generate_latest(REGISTRY) + generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
