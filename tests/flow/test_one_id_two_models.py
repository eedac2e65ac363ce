"""A request id names one request, also where the gateway serves several models."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sagellm_control.client import QueueClient, RequestConflict
from sagellm_control.gateway.api_keys import hash_key
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import AcceptLimits, accept

from ..pool_driver import new_request
from ..waiting import wait_until
from .asking import CHAT_PATH, chat, chat_bytes, error_of
from .conftest import ENDLESS, StartEngine, StartSystem
from .in_process import InProcessSystem
from .numbered_events import numbered, requests

ONE, OTHER = "simulated-1", "another-model"
ID = {"X-Request-ID": "order-9"}
ANNA, BEN = {"Authorization": "Bearer anna"}, {"Authorization": "Bearer ben"}


def ask(system: InProcessSystem, model: str, headers: dict[str, str], gateway: int = 0, **more: Any) -> Any:
    body = chat("hello", model=model, **more)
    return system.session.post(system.gateways[gateway] + CHAT_PATH, json=body, headers=headers)


@pytest.fixture
async def system(start_engine: StartEngine, start_system: StartSystem, tmp_path: Path) -> InProcessSystem:
    keys = tmp_path / "keys.toml"
    keys.write_text("".join(f'[[keys]]\nsha256 = "{hash_key(name)}"\ntenant = "{name}"\n' for name in ("anna", "ben")))
    engines = [await start_engine(models=[ONE], **ENDLESS), await start_engine(models=[OTHER])]
    return await start_system(*engines, gateways=2, gateway_api_keys=keys)


@pytest.mark.parametrize("gateway", [0, 1])
async def test_it_is_taken_for_all_models(system: InProcessSystem, gateway: int) -> None:
    async with ask(system, ONE, ID | ANNA, stream=True, max_tokens=9) as first:
        assert first.status == 200
        async with ask(system, OTHER, ID | BEN, gateway) as second:
            assert second.status == 409
            assert (await error_of(second))["code"] == "request_id_exists"
        view = await system.find("order-9")
        assert view is not None
        assert (view.pool, view.tenant) == (ONE, "anna")


async def test_so_is_an_idempotency_key(system: InProcessSystem) -> None:
    key = {"Idempotency-Key": "k"} | ANNA
    async with ask(system, OTHER, key, max_tokens=2) as response:
        assert response.status == 200
    async with ask(system, ONE, key) as response:
        assert response.status == 422
        assert (await error_of(response))["code"] == "idempotency_key_reused"


async def test_where_two_have_it_all_the_same_each_tenant_finds_its_own(system: InProcessSystem) -> None:
    # Two gateways that take them in the same moment do not see each other's.
    for pool, tenant in ((ONE, "anna"), (OTHER, "ben")):
        body = chat_bytes(model=pool, max_tokens=9, stream=True)
        made = new_request("order-9", pool, tenant=tenant, body=body, stream=True)
        await accept(system.store, pool, [made], AcceptLimits())
    for caller, model in ((ANNA, ONE), (BEN, OTHER)):
        async with system.session.get(requests(system, "order-9"), headers=caller) as response:
            assert (await response.json())["model"] == model
    async with system.session.delete(requests(system, "order-9"), headers=BEN) as response:
        assert response.status == 200
    ended = system.store.keys.pool(OTHER).record("order-9")
    await wait_until(lambda: _finished(system, ended), what="ben's has ended")
    assert not await _finished(system, system.store.keys.pool(ONE).record("order-9"))
    async with system.session.get(requests(system, "order-9", "/events"), headers=ANNA) as response:
        assert response.status == 200
        async with asyncio.timeout(20):
            _, event = await anext(numbered(response))
            assert event["model"] == ONE
    async with system.session.delete(requests(system, "order-9"), headers=ANNA) as response:
        assert response.status == 200


async def test_one_inbox_never_mixes_two_answers(system: InProcessSystem, redis_settings: RedisSettings) -> None:
    async with QueueClient.connect(redis_settings) as queue:
        await queue.pools.look()
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
        outcomes = await asyncio.gather(
            *(queue.submit(model, body, request_id="r") for model in (ONE, OTHER)), return_exceptions=True
        )
        (refused,) = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert isinstance(refused, RequestConflict)
        await queue.cancel("r")


async def _finished(system: InProcessSystem, record: str) -> bool:
    return await system.store.commands.hget(record, "state") == b"finished"
