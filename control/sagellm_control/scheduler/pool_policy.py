"""The order and the placement of one pool, as they are recorded for all its schedulers."""

from __future__ import annotations

import logging

from redis.exceptions import OutOfMemoryError

from ..store.connect import Store
from .order import DEFAULT_AGING_S, DEFAULT_ORDER, Order, make_order
from .placement import DEFAULT_PLACEMENT, Placement, make_placement
from .settings import SchedulerSettings

log = logging.getLogger(__name__)


class PoolPolicy:
    """Follows what the pool has recorded."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._pool = pool
        self._key = store.keys.pool(pool).settings
        self._aging = str(DEFAULT_AGING_S)
        self.order: Order = make_order(DEFAULT_ORDER, aging_ms=DEFAULT_AGING_S * 1000)
        self.placement: Placement = make_placement(DEFAULT_PLACEMENT)

    async def record(self, settings: SchedulerSettings) -> None:
        """Record what this process was told, for all schedulers of the pool."""
        wanted = {"policy": settings.policy, "placement": settings.placement, "aging_s": settings.aging_s}
        if given := {name: value for name, value in wanted.items() if value is not None}:
            try:
                await self._store.commands.hset(self._key, mapping=given)
            except OutOfMemoryError:
                # To schedule what is there makes room; to insist on a setting does not.
                log.warning("pool %s: Redis is out of memory, so %s is not recorded", self._pool, given)

    async def follow(self) -> None:
        """Take over what is recorded now."""
        recorded = await self._store.commands.hgetall(self._key)
        policy = recorded.get(b"policy", DEFAULT_ORDER.encode()).decode(errors="replace")
        placement = recorded.get(b"placement", DEFAULT_PLACEMENT.encode()).decode(errors="replace")
        aging = recorded.get(b"aging_s", str(DEFAULT_AGING_S).encode()).decode(errors="replace")
        try:
            if (policy, aging) != (self.order.name, self._aging):
                self.order = make_order(policy, aging_ms=float(aging) * 1000)
                self._aging = aging
                log.info("pool %s: policy is %s, aging %s s", self._pool, policy, aging)
            if placement != self.placement.name:
                self.placement = make_placement(placement)
                log.info("pool %s: placement is %s", self._pool, placement)
        except ValueError as error:
            # Another version of the code may know more names than this one.
            log.warning("pool %s: %s; keeping %s and %s", self._pool, error, self.order.name, self.placement.name)
