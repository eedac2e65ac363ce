"""Hears what is published for the requests of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from sagellm_control.store.connect import Store
from sagellm_control.wire.event import Event, read_frames


class Listener:
    """Subscribed to the inboxes that ``pool_driver.new_request`` makes up."""

    def __init__(self) -> None:
        self._heard: list[Event] = []
        self._subscription: Any = None

    async def listen(self, store: Store) -> None:
        self._subscription = store.subscriber().pubsub()
        await self._subscription.psubscribe("inbox-of-*")
        await self._subscription.get_message(timeout=5)

    async def close(self) -> None:
        await self._subscription.aclose()

    async def check(self, outputs: Mapping[str, list[tuple[str, str]]], left: Collection[str]) -> None:
        """Invariant 8: everything in the output logs was published, once, in order, unless its inbox was detached."""
        async with asyncio.timeout(20):
            while (message := await self._subscription.get_message(timeout=0.05)) is not None:
                self._heard += read_frames(message["data"])
        for request_id, log in outputs.items():
            if request_id not in left:
                heard = [(f"{e.attempt}-{e.sequence}", e.type) for e in self._heard if e.request_id == request_id]
                assert heard == log, f"{request_id}: published {heard}, logged {log}"
