"""A gateway says that it lives, whatever happens: what only it listens to would end otherwise."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from sagellm_control.client import presence
from sagellm_control.client.presence import Presence
from sagellm_control.store.connect import Store


async def test_a_bug_does_not_make_a_gateway_dead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told, tries = asyncio.Event(), 0

    async def announce(store: Store, inbox: str, lease_ms: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise KeyError("field")
        told.set()

    monkeypatch.setattr(presence, "announce_listener", announce)
    monkeypatch.setattr(presence, "ANNOUNCE_EVERY_S", 0.01)
    subscribed = asyncio.Event()
    subscribed.set()
    its = Presence(store, "inbox", subscribed)
    its.begin()
    running = asyncio.create_task(its.run())
    async with asyncio.timeout(5):
        await asyncio.wait([running, asyncio.create_task(told.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert told.is_set(), running
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
