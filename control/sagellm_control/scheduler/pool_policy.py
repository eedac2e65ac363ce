"""The order and the placement of one pool, as they are recorded for all its schedulers."""

from __future__ import annotations

import logging

from redis.exceptions import OutOfMemoryError

from ..store.connect import Store
from . import metrics
from .guarded import GuardedOrder, GuardedPlacement
from .lateness import Lateness
from .order import make_order
from .placement import make_placement
from .policy_settings import DEFAULTS, PolicySettings, read_policy_settings
from .settings import SchedulerSettings

log = logging.getLogger(__name__)


class PoolPolicy:
    """Follows what the pool has recorded."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._pool = pool
        self._key = store.keys.pool(pool).settings
        self._use(DEFAULTS)

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
        fields = {name.decode(errors="replace"): text.decode(errors="replace") for name, text in recorded.items()}
        try:
            settings = read_policy_settings(fields)
            if settings != self.settings:
                self._use(settings)
                changed = settings.fields() or "the default"
                log.info(
                    "pool %s: policy is %s, placement %s; set: %s",
                    self._pool,
                    settings.policy,
                    settings.placement,
                    changed,
                )
        except ValueError as error:
            # Another version of the code may know more names than this one.
            log.warning("pool %s: %s; keeping %s and %s", self._pool, error, self.order.name, self.placement.name)

    def _use(self, settings: PolicySettings) -> None:
        order, placement = make_order(settings.policy, settings), make_placement(settings.placement, settings)
        self.order = GuardedOrder(order, self._failed)
        self.placement = GuardedPlacement(placement, self._failed)
        self.lateness = Lateness.of(settings)
        self.settings = settings

    def _failed(self, policy: str) -> None:
        metrics.POLICY_FAILURES.labels(self._pool, policy).inc()
