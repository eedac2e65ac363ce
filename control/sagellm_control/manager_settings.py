"""Settings of a manager that is made without arguments."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from .scheduler.order import ORDERS
from .wire.registration import DEFAULT_ROOM


class ManagerSettings(BaseModel):
    """``ControlPlaneManager``; what its caller gives goes before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheduling_policy: str = Field(
        default="fifo",
        description=f"Who is next, where the state is in the process: {', '.join(ORDERS)}",
    )
    routing_strategy: str = Field(
        default="round_robin", description="On which engine, where the state is in the process"
    )
    health_check_interval_s: float = Field(
        default=10.0, gt=0, le=3600, description="How often (s) an engine is probed; the first time at once"
    )
    max_consecutive_failures: int = Field(
        default=3, ge=1, le=1000, description="So many failed probes in a row make an engine's state ERROR"
    )
    max_concurrent_requests: int = Field(
        default=DEFAULT_ROOM,
        ge=1,
        le=1_000_000,
        description="Requests on an engine at once, where its registration does not say",
    )
    max_waiting: int = Field(
        default=100_000, ge=1, le=100_000_000, description="Most requests that wait for a model's engines"
    )
    max_attempts: int = Field(
        default=4, ge=1, le=20, description="With so many failed attempts, on whichever engines, a request has failed"
    )
    request_timeout_s: float = Field(
        default=600.0, gt=0, le=86_400, description="From call to answer (s), where the caller does not say"
    )
    trust_env: bool = Field(
        default=False, description="Reach engines through the proxies that HTTP_PROXY and its kin name"
    )
