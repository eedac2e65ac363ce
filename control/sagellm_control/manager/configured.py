"""Makes a manager's backend from its arguments, and from the environment where they say nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..manager_settings import ManagerSettings
from ..settings import Loaded, SettingsError, load_settings
from .arguments import number
from .backend import Backend
from .given import given
from .local_backend import LocalBackend
from .orders import Chooses, Handicaps, make_policy, make_strategy

if TYPE_CHECKING:
    from ..store.settings import RedisSettings

MODES = ("local", "http", "shared")


@dataclass(slots=True)
class Configured:
    """What a manager is made of."""

    backend: Backend
    settings: ManagerSettings
    policy_name: str
    strategy_name: str


def configured(
    policy: str | Handicaps,
    strategy: str | Chooses,
    mode: str,
    health_check_interval_s: float,
    max_consecutive_failures: int,
    *,
    redis_url: str | None,
    namespace: str | None,
) -> Configured:
    """See ``ControlPlaneManager``. Raises ValueError, TypeError."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")
    try:
        loaded = load_settings()
    except SettingsError as error:
        raise ValueError(str(error)) from error
    settings = loaded.settings.manager
    policy_given, strategy_given = given(policy), given(strategy)
    policy = policy if policy_given else settings.scheduling_policy
    strategy = strategy if strategy_given else settings.routing_strategy
    changes: dict[str, Any] = {}
    if given(health_check_interval_s):
        changes["health_check_interval_s"] = number("health_check_interval_s", health_check_interval_s)
    if given(max_consecutive_failures):
        changes["max_consecutive_failures"] = int(number("max_consecutive_failures", max_consecutive_failures))
    settings = settings.model_copy(update=changes)
    order, placement = make_policy(policy), make_strategy(strategy)
    names = (
        policy if isinstance(policy, str) else order.name,
        strategy if isinstance(strategy, str) else placement.name,
    )
    redis = _redis(loaded, redis_url, namespace)
    if redis is None:
        if mode == "shared":
            raise ValueError("mode 'shared' needs a Redis: give redis_url, or set SAGELLM_CONTROL_REDIS_URL")
        backend: Backend = LocalBackend(policy, strategy, settings, instances=mode != "http")
    else:
        from .shared_backend import SharedBackend

        backend = SharedBackend(
            redis,
            settings,
            policy=policy if policy_given else None,
            strategy=strategy if strategy_given else None,
            instances=mode != "http",
        )
    return Configured(backend, settings, *names)


def _redis(loaded: Loaded, url: str | None, namespace: str | None) -> RedisSettings | None:
    """Raises ValueError, naming what was given and cannot be used."""
    if url is None and ("redis", "url") not in loaded.origins:
        return None
    from redis.exceptions import RedisError

    from ..store.connect import mask_password
    from ..store.topology import make_client

    given = {name: value for name, value in (("url", url), ("namespace", namespace)) if value is not None}
    settings = loaded.settings.redis
    try:
        redis = type(settings).model_validate(settings.model_dump() | given)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = "redis_url" if wrong["loc"][0] == "url" else wrong["loc"][0]
        raise ValueError(f"{name} {wrong['input']!r} cannot be used: {wrong['msg']}") from None
    try:
        make_client(redis, deadline_s=None)  # connects to nothing
    except (ValueError, RedisError) as error:
        name = "redis_url" if url is not None else loaded.origins["redis", "url"].name
        raise ValueError(f"{name} {mask_password(redis.url)!r} cannot be used: {error}") from error
    return redis
