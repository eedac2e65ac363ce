"""The order and the placement of one pool, as they are recorded for all its schedulers."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from redis.exceptions import OutOfMemoryError

from ..store.connect import Store
from ..store.inspect import texts
from ..store.steps.policy import set_once, set_policy
from ..wire.priority import RequestPriority
from . import metrics
from .guarded import GuardedOrder, GuardedPlacement
from .lateness import Lateness
from .order import AdaptiveOrder, PoolLoad, make_order
from .overload import OverloadMode
from .placement import make_placement
from .policy_settings import DEFAULTS, PolicySettings, read_policy_settings
from .settings import SchedulerSettings

log = logging.getLogger(__name__)

RANKING_SETTINGS = (
    "policy",
    "adapted_order",
    "aging_s",
    "least_share",
    "inner",
    "stretch",
    "decode_share",
    "input_weight",
    "output_weight",
    "fair_tokens_per_s",
    "ttft_slo_ms",
)
"""Settings that change the ranks of what waits; the others take hold with the next decision."""
NO_EPOCH = "0"
"""Of a pool whose policy was never changed."""


class PoolPolicy:
    """Follows what the pool has recorded."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._pool = pool
        self._key = store.keys.pool(pool).settings
        self.epoch = NO_EPOCH
        """Goes up with each change that makes ranks different."""
        self.understood = True
        """Whether this process knows the policy that is recorded; else it goes on with the last one that it knew."""
        self._use(DEFAULTS)

    async def record(self, settings: SchedulerSettings) -> None:
        """Record what this process was told, for all schedulers of the pool."""
        wanted = {"policy": settings.policy, "placement": settings.placement, "aging_s": settings.aging_s}
        given = {name: str(value) for name, value in wanted.items() if value is not None}
        if given:
            try:
                await record_settings(self._store, self._pool, given)
            except OutOfMemoryError:
                # To schedule what is there makes room; to insist on a setting does not.
                log.warning("pool %s: Redis is out of memory, so %s is not recorded", self._pool, given)

    async def follow(self) -> bool:
        """Take over what is recorded now; whether a new epoch has begun."""
        fields = texts(await self._store.commands.hgetall(self._key))
        self.understood = True
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
            self.understood = False
            log.warning("pool %s: %s; keeping %s and %s", self._pool, error, self.order.name, self.placement.name)
        self.overload.follow(fields)
        if self.adaptive is not None and (adapted := fields.get("adapted_order")):
            self.adaptive.adopt(adapted, fields.get("adapted_why", ""))
        before, self.epoch = self.epoch, fields.get("epoch", NO_EPOCH)
        return self.epoch != before

    async def adapt(self, load: PoolLoad) -> None:
        """Show the adaptive order a sample of the pool; where it moves, all schedulers do."""
        if self.adaptive is not None and self.adaptive.observe(load):
            moved = {"adapted_order": self.adaptive.current.name, "adapted_why": self.adaptive.why}
            log.info("pool %s: adaptive moves to %s: %s", self._pool, *moved.values())
            await record_settings(self._store, self._pool, moved)

    async def notice_overload(self, waiting: Mapping[RequestPriority, int], now_ms: float) -> None:
        """Show the overload mode how many of each class wait; where one begins or ends, all schedulers follow."""
        if changed := self.overload.observe(waiting, now_ms):
            log.info("pool %s: overload: %s", self._pool, changed)
            for name, since in changed.items():
                if since:
                    await set_once(self._store, self._pool, name, since)
                else:
                    await set_policy(self._store, self._pool, {}, {name: ""})

    def _use(self, settings: PolicySettings) -> None:
        order, placement = make_order(settings.policy, settings), make_placement(settings.placement, settings)
        self.adaptive = order if isinstance(order, AdaptiveOrder) else None
        self.order = GuardedOrder(order, self._failed)
        self.placement = GuardedPlacement(placement, self._failed)
        self.lateness = Lateness.of(settings)
        self.overload = OverloadMode(settings)
        self.settings = settings
        for name in (order.name, placement.name):
            metrics.POLICY_FAILURES.labels(self._pool, name)  # from 0 on, see ``metrics.begin``

    def _failed(self, policy: str) -> None:
        metrics.POLICY_FAILURES.labels(self._pool, policy).inc()


async def record_settings(store: Store, pool: str, settings: dict[str, str]) -> str:
    """Record settings for all schedulers of a pool (an empty value brings a default back); the epoch."""
    ranking = {name: value for name, value in settings.items() if name in RANKING_SETTINGS}
    others = {name: value for name, value in settings.items() if name not in RANKING_SETTINGS}
    return await set_policy(store, pool, ranking, others)


def check_settings(given: Mapping[str, str]) -> dict[str, str]:
    """Settings as somebody asks for them, to be recorded; an empty value stands for the default.

    Raises:
        ValueError: names each setting that there is not, or what it may be.
    """
    if unknown := [name for name in given if name not in PolicySettings.model_fields]:
        raise ValueError(f"unknown setting {unknown[0][:40]!r}: use one of {', '.join(PolicySettings.model_fields)}")
    settings = read_policy_settings({name: value for name, value in given.items() if value})
    make_order(settings.policy, settings)
    make_placement(settings.placement, settings)
    return dict(given)
