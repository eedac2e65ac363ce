"""A worker claims what it runs for a while; what has ended by then needs no claim."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sagellm_control.store.connect import Store
from sagellm_control.store.steps.claim import claim
from sagellm_control.wire.states import RequestState
from sagellm_workers.attempts import outbox

from .asking import CHAT_PATH, MODEL, chat, data
from .conftest import StartEngine, StartSystem


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Requests whose claim was written, and for how long (ms) they had run."""
    found: dict[str, float] = {}

    async def listed(
        store: Store, pool: str, engine: str, worker: str, attempts: Sequence[tuple[str, int, float]]
    ) -> list[str]:
        found.update((request_id, ran_ms) for request_id, _, ran_ms in attempts)
        return await claim(store, pool, engine, worker, attempts)

    monkeypatch.setattr(outbox, "claim", listed)
    return found


async def test_what_has_ended_by_then_is_not_claimed(
    start_engine: StartEngine, start_system: StartSystem, claimed: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "CLAIM_AFTER_S", 1.0)
    system = await start_system(await start_engine())
    headers = {"X-Request-ID": "short"}
    async with system.session.post(system.url + CHAT_PATH, json=chat("short", max_tokens=2), headers=headers) as answer:
        assert answer.status == 200
    record = await system.store.commands.hgetall(system.store.keys.pool(MODEL).record("short"))
    assert 0 <= float(record[b"started_ms"]) - float(record[b"assigned_ms"]) < outbox.CLAIM_AFTER_S * 1000
    assert claimed == {}


async def test_what_goes_on_is_claimed_from_when_it_began(
    start_engine: StartEngine, start_system: StartSystem, claimed: dict[str, float]
) -> None:
    system = await start_system(await start_engine(tpot_ms=20))
    body, headers = chat("long", max_tokens=100_000, stream=True), {"X-Request-ID": "long"}
    async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as answer:
        await anext(data(answer))
        await system.until("long", RequestState.RUNNING)
        while not claimed:
            await anext(data(answer))
    assert claimed.keys() == {"long"}
    assert claimed["long"] >= outbox.CLAIM_AFTER_S * 1000
    record = await system.store.commands.hgetall(system.store.keys.pool(MODEL).record("long"))
    assert float(record[b"started_ms"]) >= float(record[b"assigned_ms"])
