"""Whatever becomes of a request, its answer carries its ids: an error can be looked for in logs and traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError

from sagellm_control.gateway.api_keys import hash_key
from sagellm_control.gateway.request_headers import idempotent_id
from sagellm_control.wire.request import is_request_id

from .asking import CHAT_PATH, post_chat
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SENT = {"X-Request-ID": "e3", "X-Trace-ID": "t9", "traceparent": TRACEPARENT, "tracestate": "rojo=00f0,congo=t6 1"}
REFUSALS: dict[int, dict[str, Any]] = {400: {"user": 3}, 404: {"model": "nobody"}, 413: {"user": "x" * 5000}}


@pytest.fixture
async def system(start_engine: StartEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(await start_engine(), gateway_max_body_bytes=4000)


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_refusal_returns_the_ids_that_were_sent(system: InProcessSystem, status: int) -> None:
    async with post_chat(system, SENT, **REFUSALS[status]) as response:
        assert response.status == status
        assert {name: response.headers.get(name) for name in SENT} == SENT


async def test_so_does_a_request_whose_id_is_in_use(system: InProcessSystem) -> None:
    for status in (200, 409):
        async with post_chat(system, SENT) as response:
            assert response.status == status
            assert {name: response.headers.get(name) for name in SENT} == SENT


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models"])
async def test_so_does_what_a_load_balancer_asks(system: InProcessSystem, path: str) -> None:
    async with system.session.get(system.url + path, headers=SENT) as response:
        assert response.status == 200
        assert {name: response.headers.get(name) for name in SENT} == SENT


async def test_so_does_one_without_a_key(start_engine: StartEngine, start_system: StartSystem, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[keys]]\nsha256 = "{hash_key("sk-1")}"\ntenant = "search"\n')
    system = await start_system(await start_engine(), gateway_api_keys=keys)
    async with post_chat(system, SENT) as response:
        assert response.status == 401
        assert {name: response.headers.get(name) for name in SENT} == SENT


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("sent", [{}, {"X-Request-ID": "with space", "X-Trace-ID": "two words", "traceparent": "00-x"}])
async def test_ids_are_made_up_where_none_can_be_used(
    system: InProcessSystem, status: int, sent: dict[str, str]
) -> None:
    ids: set[str] = set()
    for _ in range(2):
        async with post_chat(system, sent, **REFUSALS[status]) as response:
            assert response.status in (status, 400)
            ids.add(response.headers["X-Request-ID"])
            assert response.headers["X-Trace-ID"] == response.headers["X-Request-ID"]
            assert "traceparent" not in response.headers
    assert len(ids) == 2
    assert all(map(is_request_id, ids))


async def test_openais_client_tells_them(system: InProcessSystem) -> None:
    async with AsyncOpenAI(base_url=f"{system.url}/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(NotFoundError) as refused:
            await client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
    assert is_request_id(refused.value.request_id or "")


@pytest.mark.parametrize(("status", "fields"), [(200, {}), (422, {"max_tokens": 5}), (404, {"model": "nobody"})])
async def test_with_an_idempotency_key_it_is_the_keys_id(
    system: InProcessSystem, status: int, fields: dict[str, Any]
) -> None:
    headers = SENT | {"Idempotency-Key": "k"}
    if status == 422:
        async with post_chat(system, headers) as response:
            assert response.status == 200
    async with post_chat(system, headers, **fields) as response:
        assert response.status == status
        told = {name: response.headers[name] for name in SENT}
    assert told == SENT | {"X-Request-ID": idempotent_id("", "k")}


async def test_before_its_key_can_be_read_it_is_neither(system: InProcessSystem) -> None:
    """The key counts for one tenant, and who that is stands in the body."""
    async with post_chat(system, SENT | {"Idempotency-Key": "k"}, user=3) as response:
        assert response.status == 400
        assert response.headers["X-Request-ID"] not in ("e3", idempotent_id("", "k"))


async def test_an_unknown_path_has_one_too(system: InProcessSystem) -> None:
    async with system.session.get(system.url + CHAT_PATH + "/no", headers={"X-Request-ID": "e3"}) as response:
        assert response.headers["X-Request-ID"] == "e3"
