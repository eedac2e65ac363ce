"""The part of a gateway that accepts, with its fast path."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sagellm_control.gateway import fast_path as module
from sagellm_control.gateway.fast_path import GatewayFastPath
from sagellm_control.store.steps.accept import Accepted, Proposals, accept_batch

from ..pool_driver import PoolDriver, new_request
from ..waiting import wait_until


@dataclass
class Gateway:
    """Accepts as a gateway does."""

    pool: PoolDriver
    fast_path: GatewayFastPath

    async def propose(self, *request_ids: str, **fields: Any) -> Proposals | None:
        return await self.fast_path.propose(
            self.pool.name, [new_request(r, self.pool.name, **fields) for r in request_ids]
        )

    async def engines(self, *request_ids: str, **fields: Any) -> list[str | None]:
        """What is proposed for requests that nobody then accepts: their room is given back."""
        made = await self.propose(*request_ids, **fields)
        if made is None:
            return []
        for choice in made.choices if isinstance(made, module._Made) else []:
            if choice is not None:
                self.of_pool()._proposer.give_back(choice)
        return [proposal.engine for proposal in made.each]

    async def accept(self, *request_ids: str, **fields: Any) -> list[bool]:
        """Whether each is on an engine."""
        self.pool.clock.advance(1)
        requests = [new_request(r, self.pool.name, **fields) for r in request_ids]
        made = await self.fast_path.propose(self.pool.name, requests)
        batch = await accept_batch(self.pool.store, self.pool.name, requests, self.pool.limits, made)
        self.fast_path.learn(self.pool.name, made, batch)
        return [isinstance(result, Accepted) and result.assigned for result in batch.results]

    async def ready(self) -> bool:
        """Whether it proposes anything."""
        return await self.engines("look") != []

    async def look(self, engines: Sequence[str | None] = ("e1",)) -> None:
        """Until this is proposed for a request without a prefix."""

        async def proposed() -> bool:
            return await self.engines("look") == list(engines)

        await wait_until(proposed, what=f"{engines} are proposed")

    async def look_anew(self) -> None:
        """Read the snapshot again, now."""
        pool = self.of_pool()
        before, pool._look_at = pool._looked_at, float("-inf")

        async def looked() -> bool:
            await self.engines("look")
            return pool._looked_at > before

        await wait_until(looked, what="the snapshot is read")

    def of_pool(self) -> Any:
        return self.fast_path._pools[self.pool.name]


def own_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("fast path")}
