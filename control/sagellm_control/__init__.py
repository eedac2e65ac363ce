"""A durable, shared, priority-aware control plane for LLM inference.

The names of the sageLLM control plane's API are loaded when they are first asked for: the processes of the system
import this package too, and need none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine_client import (
        ClientConfig,
        EngineClient,
        EngineClientError,
        EngineRequestError,
        EngineTimeoutError,
        EngineUnavailableError,
        RequestContext,
        RetryPolicy,
    )
    from .lifecycle import EngineLifecycleManager
    from .local_engine_client import LocalEngineClient
    from .manager import ControlPlaneManager
    from .policies import AdaptivePolicy, FIFOPolicy, PriorityPolicy, SchedulingPolicy, SLOAwarePolicy
    from .router import LoadBalancer, RequestRouter
    from .scaling import ScalingManager
    from .types import (
        EngineInfo,
        EngineState,
        ExecutionInstanceType,
        RequestPriority,
        RequestStatus,
        RequestType,
        SchedulingDecision,
    )

__version__ = "0.6.0"

__all__ = [
    "AdaptivePolicy",
    "ClientConfig",
    "ControlPlaneManager",
    "EngineClient",
    "EngineClientError",
    "EngineInfo",
    "EngineLifecycleManager",
    "EngineRequestError",
    "EngineState",
    "EngineTimeoutError",
    "EngineUnavailableError",
    "ExecutionInstanceType",
    "FIFOPolicy",
    "LoadBalancer",
    "LocalEngineClient",
    "PriorityPolicy",
    "RequestContext",
    "RequestPriority",
    "RequestRouter",
    "RequestStatus",
    "RequestType",
    "RetryPolicy",
    "SLOAwarePolicy",
    "ScalingManager",
    "SchedulingDecision",
    "SchedulingPolicy",
    "__version__",
]

_HOMES = {
    "engine_client": (
        "ClientConfig",
        "EngineClient",
        "EngineClientError",
        "EngineRequestError",
        "EngineTimeoutError",
        "EngineUnavailableError",
        "RequestContext",
        "RetryPolicy",
    ),
    "lifecycle": ("EngineLifecycleManager",),
    "local_engine_client": ("LocalEngineClient",),
    "manager": ("ControlPlaneManager",),
    "policies": ("AdaptivePolicy", "FIFOPolicy", "PriorityPolicy", "SLOAwarePolicy", "SchedulingPolicy"),
    "router": ("LoadBalancer", "RequestRouter"),
    "scaling": ("ScalingManager",),
    "types": (
        "EngineInfo",
        "EngineState",
        "ExecutionInstanceType",
        "RequestPriority",
        "RequestStatus",
        "RequestType",
        "SchedulingDecision",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
