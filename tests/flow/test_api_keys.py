"""With a file of API keys, every request needs one; the key tells the tenant and how urgent it may be."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from multidict import CIMultiDict

from sagellm_control.gateway import api_keys_file
from sagellm_control.gateway.api_keys import ApiKeysUnreadable, hash_key
from sagellm_control.gateway.process import serve
from sagellm_control.gateway.settings import GatewaySettings
from sagellm_control.store.settings import RedisSettings

from ..waiting import wait_until
from .asking import CHAT_PATH, chat, error_of
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .in_process import InProcessSystem

SEARCH, BATCH, ADMIN = "sk-search-key", "sk-batch-key", "sk-admin-key"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(
        f'[[keys]]\nsha256 = "{hash_key(SEARCH)}"\ntenant = "search"\n\n'
        f'[[keys]]\nsha256 = "{hash_key(BATCH)}"\ntenant = "batch"\nmax_priority = "LOW"\nweight = 2.5\n'
        f'[[keys]]\nsha256 = "{hash_key(ADMIN)}"\ntenant = "operators"\nadmin = true\n'
    )
    return path


@pytest.fixture
async def engine(start_engine: StartEngine) -> SimulatedEngine:
    return await start_engine()


@pytest.fixture
async def system(engine: SimulatedEngine, start_system: StartSystem, keys_file: Path) -> InProcessSystem:
    return await start_system(engine, gateway_api_keys=keys_file)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer sk-wrong", f"Basic {SEARCH}", SEARCH, f"Bearer {hash_key(SEARCH)}"],
)
@pytest.mark.parametrize("path", [CHAT_PATH, "/v1/completions", "/v1/embeddings", "/v1/models"])
async def test_without_a_valid_key_nothing_is_answered(
    engine: SimulatedEngine, system: InProcessSystem, authorization: str | None, path: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    method = "GET" if path == "/v1/models" else "POST"
    async with system.session.request(method, system.url + path, json=chat(), headers=headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        error = await error_of(response)
    assert error["code"] == "invalid_api_key"
    assert error["type"] == "authentication_error"
    assert (await engine.state())["total_requests"] == 0


async def test_two_keys_are_none(system: InProcessSystem) -> None:
    headers = CIMultiDict([("Authorization", f"Bearer {SEARCH}"), ("Authorization", "Bearer sk-another")])
    async with system.session.post(system.url + CHAT_PATH, json=chat(), headers=headers) as response:
        assert response.status == 400
        assert (await error_of(response))["param"] == "Authorization"


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_a_load_balancer_needs_no_key(system: InProcessSystem, path: str) -> None:
    async with system.session.get(system.url + path) as response:
        assert response.status == 200


async def test_the_key_tells_the_tenant(system: InProcessSystem) -> None:
    headers = {"Authorization": f"bearer {SEARCH}", "X-Request-ID": "mine"}
    async with system.session.post(
        system.url + CHAT_PATH, json=chat(user="somebody else"), headers=headers
    ) as response:
        assert response.status == 200, await response.text()
    view = await system.find("mine")
    assert view is not None
    assert view.tenant == "search"


@pytest.mark.parametrize(
    ("key", "asked", "given"),
    [
        (BATCH, "CRITICAL", "LOW"),
        (BATCH, "LOW", "LOW"),
        (BATCH, "BACKGROUND", "BACKGROUND"),
        (BATCH, None, "LOW"),
        (SEARCH, "CRITICAL", "CRITICAL"),
    ],
)
async def test_the_priority_is_clamped_to_what_the_key_allows(
    system: InProcessSystem, key: str, asked: str | None, given: str
) -> None:
    headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "clamped"}
    if asked is not None:
        headers["X-Request-Priority"] = asked
    async with system.session.post(system.url + CHAT_PATH, json=chat(), headers=headers) as response:
        assert response.headers["X-Request-Priority"] == given
    view = await system.find("clamped")
    assert view is not None
    assert view.priority == given.lower()


async def test_two_keys_do_not_share_idempotency_keys(engine: SimulatedEngine, system: InProcessSystem) -> None:
    ids: set[str] = set()
    for key in (SEARCH, BATCH):
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "same"}
        async with system.session.post(system.url + CHAT_PATH, json=chat(), headers=headers) as response:
            assert response.status == 200
            ids.add(response.headers["X-Request-ID"])
    assert len(ids) == 2
    assert (await engine.state())["total_requests"] == 2


async def test_keys_stay_out_of_redis(system: InProcessSystem) -> None:
    headers = {"Authorization": f"Bearer {SEARCH}", "X-Request-ID": "mine"}
    async with system.session.post(system.url + CHAT_PATH, json=chat(), headers=headers) as response:
        assert response.status == 200
    view = await system.find("mine")
    assert view is not None
    assert not any(secret in str(view.fields) for secret in (SEARCH, hash_key(SEARCH)))


async def test_a_gateway_does_not_start_with_a_file_that_it_cannot_use(
    redis_settings: RedisSettings, tmp_path: Path
) -> None:
    missing = tmp_path / "nobody.toml"
    with pytest.raises(ApiKeysUnreadable, match=str(missing)):
        async with serve(GatewaySettings(port=0, api_keys=missing), redis_settings):
            pytest.fail("it started")


async def test_a_priority_beyond_the_keys_is_clamped_and_said_so(system: InProcessSystem) -> None:
    headers = {"Authorization": f"Bearer {BATCH}", "X-Request-Priority": "CRITICAL", "X-Request-ID": "clamped"}
    async with system.session.post(system.url + CHAT_PATH, json=chat(), headers=headers) as response:
        assert (response.headers["X-Request-Priority"], response.headers["X-Request-Priority-Asked"]) == (
            "LOW",
            "CRITICAL",
        )
    view = await system.find("clamped")
    assert view is not None
    assert (view.priority, view.fields["weight"]) == ("low", "2.5")


@pytest.mark.parametrize(("key", "status"), [(None, 401), (SEARCH, 403), (ADMIN, 200)])
async def test_only_an_admins_key_changes_the_policy(system: InProcessSystem, key: str | None, status: int) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with system.session.post(
        system.url + "/admin/set_policy", json={"policy": "fifo"}, headers=headers
    ) as response:
        assert response.status == status
    async with system.session.get(system.url + "/admin/metrics", headers=headers) as response:
        assert response.status == status


@pytest.mark.parametrize(("key", "status"), [(BATCH, 200), (ADMIN, 200), (SEARCH, 404)])
async def test_nobody_is_told_why_anothers_request_waits(system: InProcessSystem, key: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {BATCH}", "X-Request-ID": "mine"}
    async with system.session.post(system.url + CHAT_PATH, json=chat(), headers=headers) as response:
        assert response.status == 200
    url = system.url + "/v1/requests/mine/explain"
    async with system.session.get(url, headers={"Authorization": f"Bearer {key}"}) as response:
        assert response.status == status


async def test_the_file_is_read_again_when_it_has_changed(
    redis_settings: RedisSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys_file, "LOOK_EVERY_S", 0.01)
    path = tmp_path / "keys.toml"
    path.write_text(f'[[keys]]\nsha256 = "{hash_key("sk-1")}"\ntenant = "x"\n')
    async with (
        serve(GatewaySettings(port=0, api_keys=path), redis_settings) as url,
        aiohttp.ClientSession() as session,
    ):

        async def statuses() -> list[int]:
            found: list[int] = []
            for key in ("sk-1", "sk-2"):
                async with session.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}) as response:
                    found.append(response.status)
            return found

        assert await statuses() == [200, 401]
        path.write_text(f'[[keys]]\nsha256 = "{hash_key("sk-2")}"\ntenant = "x"\n')

        async def changed() -> bool:
            return await statuses() == [401, 200]

        await wait_until(changed)
