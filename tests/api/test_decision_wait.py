"""A wish is kept for as long as somebody waits for what becomes of it."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.manager import decision_wait, local_wishes

from .test_in_process_queue import MODEL, a_manager


async def test_who_waits_keeps_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (local_wishes, decision_wait):
        monkeypatch.setattr(module, "ASKED_AGAIN_S", 0.1)
    manager = a_manager(e1={"max_concurrent_requests": 1})
    assert (await manager.schedule_request("a", "t", MODEL)).is_scheduled
    assert not (await manager.schedule_request("b", "t", MODEL)).is_scheduled
    decision = await manager.wait_scheduled("b", 0.4)
    assert decision is not None
    assert decision.queue_position == 1
    waits = asyncio.create_task(manager.wait_scheduled("b"))
    await asyncio.sleep(0)
    manager.complete_request("b", "e1")
    async with asyncio.timeout(5):
        assert await waits is None, "it has been given up meanwhile"
