"""A user with no more rights than the documentation gives it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.exceptions import NoPermissionError

from sagellm_control.client import QueueClient
from sagellm_control.keeper.departures import DepartureKeeper
from sagellm_control.keeper.reconcile import Reconciler
from sagellm_control.store.awaited import forget_awaited, list_awaited, note_awaited
from sagellm_control.store.connect import StoreUnusable, open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.engines import drain_engine
from sagellm_control.store.views import list_requests
from sagellm_control.wire.states import RequestState

from ..cluster_group import ask_server
from ..flow.asking import CHAT_PATH, MODEL, chat, chat_bytes, expected_text
from ..flow.conftest import StartEngine
from ..flow.in_process import in_process_system
from ..servers import Backend, make_server

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "deploying-redis.md"
STEPS = ROOT / "control" / "sagellm_control" / "store" / "steps"


def _documented() -> str:
    found = re.search(r"^ACL SETUSER (.*)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture
async def login(backend: Backend, redis_settings: RedisSettings) -> RedisSettings:
    """The test's namespace, as the documented user."""
    user = f"user-of-{redis_settings.namespace}"
    text = _documented().replace("sagellm:", f"{redis_settings.namespace}:").replace("PASSWORD", "p@ss:word/")
    words = [user, *text.split()[1:]]
    port = urlsplit(redis_settings.url).port or 0
    await ask_server(port, "ACL", "SETUSER", *words)
    return redis_settings.model_copy(update={"url": f"redis://{user}:p%40ss%3Aword%2F@127.0.0.1:{port}/0"})


async def test_everything_works_with_the_documented_rights(login: RedisSettings, start_engine: StartEngine) -> None:
    engine = await start_engine()
    async with in_process_system(login, [engine.url]) as system:
        for stream in (False, True):
            body = chat("allowed", max_tokens=3, stream=stream)
            async with system.session.post(system.url + CHAT_PATH, json=body) as response:
                assert response.status == 200
                await response.read()
        async with QueueClient.connect(login) as queue:
            submission = await queue.submit(MODEL, chat_bytes("allowed", max_tokens=3))
            result = await queue.result(submission.request_id)
            assert result.json()["choices"][0]["message"]["content"] == expected_text("allowed", 3)
            assert await queue.cancel(submission.request_id) == "finished"
        assert len(await list_requests(system.store, state=RequestState.FINISHED)) == 3
        await note_awaited(system.store, "http://127.0.0.1:9", worker="w", reason="refused")
        assert [each.url for each in await list_awaited(system.store)] == ["http://127.0.0.1:9"]
        await forget_awaited(system.store, "http://127.0.0.1:9")
        await DepartureKeeper(system.store, MODEL).look()
        await Reconciler(system.store, MODEL).look()
        (view,) = await system.engine_views()
        await drain_engine(system.store, MODEL, view.engine_id)
        await drain_engine(system.store, MODEL, view.engine_id, drain=False)
        refused = await asyncio.gather(
            system.store.commands.get("another-namespace:key"),
            system.store.commands.publish("another-namespace:inbox:x", "hello"),
            system.store.commands.flushall(),
            return_exceptions=True,
        )
        assert [type(error) for error in refused] == [NoPermissionError] * 3


async def test_so_do_engines_in_pairs(login: RedisSettings, start_engine: StartEngine) -> None:
    pair = await start_engine(disaggregation="prefill"), await start_engine(disaggregation="decode")
    async with (
        in_process_system(login, [engine.url for engine in pair]) as system,
        system.session.post(system.url + CHAT_PATH, json=chat("allowed", max_tokens=3)) as response,
    ):
        assert response.status == 200, await response.text()


def test_every_command_of_the_scripts_is_in_the_documented_rights() -> None:
    """Also of those steps that are rare."""
    rights = set(re.findall(r"\+([a-z|]+)", _documented()))
    scripts = "".join(file.read_text(encoding="utf-8") for file in STEPS.glob("*.lua"))
    used = set(re.findall(r"redis\.p?call\(\s*'([A-Z]+)'(?:,\s*'(CREATE|CONSUMERS|DELCONSUMER)')?", scripts))
    used |= {(name, "") for name in re.findall(r"\{\s*'([XZ][A-Z]+|[HS]SET|[HS]ADD)'", scripts)}
    names = {f"{command}|{sub}" if sub else command for command, sub in used}
    assert len(names) > 40
    assert not {name.lower() for name in names} - rights


async def test_a_wrong_password_is_told_without_the_password(login: RedisSettings) -> None:
    wrong = login.model_copy(update={"url": login.url.replace("word", "wurd")})
    with pytest.raises(StoreUnusable) as told:
        async with open_store(wrong):
            pass
    assert "wurd" not in str(told.value)
    assert "password" in str(told.value)


@pytest.mark.parametrize("taken", ["-eval", "-exists", "-publish", "resetchannels", "resetkeys"])
async def test_without_the_rights_to_work_a_process_ends_and_says_so(login: RedisSettings, taken: str) -> None:
    port = urlsplit(login.url).port or 0
    await ask_server(port, "ACL", "SETUSER", urlsplit(login.url).username, taken)
    async with open_store(login, check=False) as store:
        with pytest.raises(StoreUnusable, match="rights"):
            await store.wait()


async def test_a_server_that_evicts_is_refused(backend: Backend) -> None:
    async with make_server(backend) as server:
        await ask_server(server.port, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreUnusable, match="maxmemory-policy is allkeys-lru"):
            async with open_store(RedisSettings(url=server.url)):
                pass
