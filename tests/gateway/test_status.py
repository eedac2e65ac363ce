"""What a gateway says of its models and of itself before it has looked at Redis."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from sagellm_control.client.pools import Pools
from sagellm_control.embedded.ports import free_port
from sagellm_control.gateway.process import serve_from
from sagellm_control.gateway.settings import GatewaySettings
from sagellm_control.store.connect import open_store
from sagellm_control.store.settings import RedisSettings

from ..pool_driver import PoolDriver


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 503), ("/v1/models/any", 503), ("/health", 200)])
async def test_that_no_model_is_known_is_not_taken_for_none(path: str, status: int) -> None:
    nowhere = RedisSettings(url=f"redis://127.0.0.1:{free_port()}/0")
    async with (
        open_store(nowhere, check=False) as store,
        serve_from(GatewaySettings(port=0, shutdown_s=0.1), store, at_once=True) as url,
        aiohttp.ClientSession() as session,
        session.get(url + path) as answer,
    ):
        assert answer.status == status
        if status == 503:
            assert (await answer.json())["error"]["code"] == "queue_unavailable"
            assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/llama"])
async def test_it_looks_for_whoever_asks_before_its_own_first_look(
    pool: PoolDriver, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def never_looks(self: Pools) -> None:
        await asyncio.Event().wait()

    await pool.engine(models=("llama",))
    monkeypatch.setattr(Pools, "run", never_looks)
    async with (
        serve_from(GatewaySettings(port=0, shutdown_s=0.1), pool.store) as url,
        aiohttp.ClientSession() as session,
        session.get(url + path) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert '"id": "llama"' in await answer.text()
