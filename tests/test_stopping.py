"""Waiting for an event for no longer than so long."""

from __future__ import annotations

import asyncio

from sagellm_control.stopping import is_set_within


async def test_an_event_is_waited_for_and_no_longer_than_asked() -> None:
    event = asyncio.Event()
    assert not await is_set_within(event, 0.001)
    assert not await is_set_within(event, -1)
    asyncio.get_running_loop().call_soon(event.set)
    assert await is_set_within(event, 3600)
    assert await is_set_within(event, -1), "what is set need not be waited for"
