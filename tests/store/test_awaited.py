"""Engines that have not answered yet, as long as somebody looks for them."""

from __future__ import annotations

import contextlib

import pytest

from sagellm_control.store.awaited import KEPT_S, AwaitedEngine, forget_awaited, list_awaited, note_awaited
from sagellm_control.store.connect import Store


async def test_what_was_said_last_counts_until_it_is_forgotten(store: Store) -> None:
    for url, reason in (("http://b:1", "refused"), ("http://a:1", "refused"), ("http://b:1", "hangs")):
        await note_awaited(store, url, worker="host-1", reason=reason)
    found = [(each.url, each.reason, each.worker, each.state) for each in await list_awaited(store)]
    assert found == [
        ("http://a:1", "refused", "host-1", "AWAITED"),
        ("http://b:1", "hangs", "host-1", "AWAITED"),
    ]
    await forget_awaited(store, "http://b:1")
    assert [each.url for each in await list_awaited(store)] == ["http://a:1"]


async def test_what_a_dead_worker_said_is_forgotten(store: Store) -> None:
    await note_awaited(store, "http://living:1", worker="host-1", reason="refused")
    dead = AwaitedEngine(url="http://dead:1", worker="host-2", reason="refused", until_ms=1.0)
    await store.commands.hset(store.keys.awaited(), dead.url, dead.model_dump_json())
    assert [each.url for each in await list_awaited(store)] == ["http://living:1"]
    assert await store.commands.hkeys(store.keys.awaited()) == [b"http://living:1"]


async def test_nothing_stays_when_nobody_says_anything(store: Store) -> None:
    await note_awaited(store, "http://a:1", worker="host-1", reason="refused")
    assert 0 < await store.commands.ttl(store.keys.awaited()) <= 2 * KEPT_S


async def test_a_worker_that_is_killed_while_it_tells_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object) -> None:
        raise ConnectionError("no command comes from it after the first")

    monkeypatch.setattr(store.commands, "pexpire", killed)
    with contextlib.suppress(ConnectionError):
        await note_awaited(store, "http://127.0.0.1:1", worker="w", reason="it does not answer")
    assert await store.commands.pttl(store.keys.awaited()) > 0


async def test_what_cannot_be_read_hides_nothing(store: Store) -> None:
    await note_awaited(store, "http://a:1", worker="host-1", reason="refused")
    await store.commands.hset(store.keys.awaited(), "http://b:1", "no JSON")
    assert [each.url for each in await list_awaited(store)] == ["http://a:1"]
