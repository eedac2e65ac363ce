"""A worker claims what it runs for a while; what has ended by then needs no claim."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.claim import claim
from sagellm_control.wire.states import RequestState
from sagellm_workers import outbox

from .asking import CHAT_PATH, chat, data
from .conftest import StartEngine, StartSystem


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Requests whose claim was written."""
    ids: list[str] = []

    async def listed(
        store: Store, pool: str, engine: str, worker: str, attempts: Sequence[tuple[str, int, float]]
    ) -> list[str]:
        ids.extend(request_id for request_id, _, _ in attempts)
        return await claim(store, pool, engine, worker, attempts)

    monkeypatch.setattr(outbox, "claim", listed)
    return ids


async def test_what_has_ended_by_then_is_not_claimed(
    start_engine: StartEngine, start_system: StartSystem, claimed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "CLAIM_AFTER_S", 1.0)
    system = await start_system(await start_engine())
    headers = {"X-Request-ID": "short"}
    async with system.session.post(system.url + CHAT_PATH, json=chat("short", max_tokens=2), headers=headers) as answer:
        assert answer.status == 200
    record = await system.store.commands.hgetall(system.store.keys.pool("simulated-1").record("short"))
    assert record[b"started_ms"] == record[b"assigned_ms"]
    assert claimed == []


async def test_what_goes_on_is_claimed_from_when_it_began(
    start_engine: StartEngine, start_system: StartSystem, claimed: list[str]
) -> None:
    system = await start_system(await start_engine(tpot_ms=20))
    body, headers = chat("long", max_tokens=100_000, stream=True), {"X-Request-ID": "long"}
    async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as answer:
        await anext(data(answer))
        view = await system.until("long", RequestState.RUNNING)
        assert view.request_id == "long"
        while not claimed:
            await anext(data(answer))
    assert claimed == ["long"]
    record = await system.store.commands.hgetall(system.store.keys.pool("simulated-1").record("long"))
    assert float(record[b"started_ms"]) >= float(record[b"assigned_ms"])
