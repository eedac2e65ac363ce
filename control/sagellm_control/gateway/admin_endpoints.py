"""``/admin/…``: what sageLLM's tools know: the policy of pools, and figures."""

from __future__ import annotations

import ipaddress
from typing import Any, cast

import orjson
from aiohttp import web

from ..client.errors import UnknownModel
from ..client.queue_client import QueueClient
from ..scheduler.policy_settings import PolicySettings
from ..scheduler.pool_policy import check_settings, record_settings
from .endpoints import OpenAIEndpoints
from .errors import ApiError, bad_request, from_queue
from .receiving import receive
from .settings import GatewaySettings


class AdminEndpoints:
    """For keys with ``admin = true``; where no keys are asked for, for callers on this machine."""

    def __init__(self, queue: QueueClient, settings: GatewaySettings, openai: OpenAIEndpoints) -> None:
        self._queue = queue
        self._settings = settings
        self._openai = openai

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/admin/set_policy", self.set_policy), web.get("/admin/metrics", self.metrics)]

    async def set_policy(self, request: web.Request) -> web.Response:
        """``{"policy": name, "placement"?: name, "model"?: name, …}``: any setting of a policy; for one pool or all.

        What waits is ranked anew in the background.
        """
        self._authorize(request)
        try:
            parsed: Any = orjson.loads(await receive(request, self._settings.body_timeout_s))
        except orjson.JSONDecodeError as error:
            raise bad_request(f"The body is not valid JSON: {error}.", None, "invalid_json") from None
        if not isinstance(parsed, dict):
            raise bad_request("The body must be a JSON object.", None, "invalid_json")
        wanted = {str(name): value for name, value in cast("dict[Any, Any]", parsed).items() if value is not None}
        pools = await self._pools(wanted.pop("model", None))
        if not wanted:
            raise bad_request(f"Name at least one of {', '.join(PolicySettings.model_fields)}.", "policy")
        settings = {name: str(value) for name, value in wanted.items()}
        for name, value in settings.items():
            try:
                check_settings({name: value})
            except ValueError as error:
                raise bad_request(f"{error}.", name) from None
        if not pools:
            raise ApiError(
                404, "No engine has registered, so there is no pool whose policy could be set.", code="no_pool"
            )
        epochs = {pool: await record_settings(self._queue.store, pool, settings) for pool in pools}
        return web.json_response({"status": "ok", **settings, "pools": pools, "epochs": epochs})

    async def metrics(self, request: web.Request) -> web.Response:
        """Each pool: what waits, its engines, its counters, its policy, and how many requests a second leave it: of
        late, and while others wait (0: none do)."""
        self._authorize(request)
        known = self._queue.pools
        await known.look()
        pools: dict[str, Any] = {}
        for depth in known.depths:
            rates = {"requests_per_s": known.rate(depth.pool), "drain_rate_per_s": known.drain_rate(depth.pool)}
            pools[depth.pool] = depth.model_dump(exclude={"pool"}) | rates
        return web.json_response({"pools": pools})

    async def _pools(self, model: object) -> list[str]:
        if model is None:
            await self._queue.pools.look()
            return self._queue.pools.names
        if not isinstance(model, str):
            raise bad_request("model must be the name of a model.", "model")
        pool = await self._queue.pools.find(model)
        if pool is None and (known := list(self._queue.pools.models)):
            raise from_queue(UnknownModel(model[:80], known))
        return [pool] if pool else []

    def _authorize(self, request: web.Request) -> None:
        caller = self._openai.authenticate(request)
        if caller is not None:
            if not caller.admin:
                raise ApiError(403, "This key may not use /admin: it needs admin = true.", code="not_an_admin")
        elif not _is_local(request.remote):
            raise ApiError(
                403, "Without API keys /admin is only for callers on the gateway's machine.", code="not_an_admin"
            )


def _is_local(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False
