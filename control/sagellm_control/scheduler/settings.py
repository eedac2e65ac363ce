"""Settings of a scheduler process."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .order import DEFAULT_ORDER, ORDERS, make_order
from .placement import DEFAULT_PLACEMENT, PLACEMENTS, make_placement


class SchedulerSettings(BaseModel):
    """A scheduler process; any number of them may run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str | None = Field(
        default=None,
        description=f"Who is next: {', '.join(ORDERS)}. Recorded for the pool, so all its schedulers follow it. "
        f"Not given: what the pool has recorded, else {DEFAULT_ORDER}",
    )
    placement: str | None = Field(
        default=None,
        description=f"On which engine: {', '.join(PLACEMENTS)}. Recorded like the policy; else {DEFAULT_PLACEMENT}",
    )
    aging_s: float | None = Field(
        default=None,
        ge=0,
        le=86_400,
        description="Head start (s) of a priority class over the next: a BACKGROUND request goes before a CRITICAL "
        "one that came more than 4 times this later. Recorded like the policy; else 60",
    )
    batch: int = Field(default=128, ge=1, le=1000, description="Most requests decided on in one commit")
    sweep_s: float = Field(
        default=1.0, gt=0, le=60, description="How often (s) an idle scheduler looks at everything again"
    )
    reclaim_idle_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="What another scheduler has read and not settled for so long (s) is taken over from it",
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address of the metrics server")
    metrics_port: int = Field(default=0, ge=0, le=65_535, description="Port of the metrics server; 0: none")

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, name: str | None) -> str | None:
        if name is not None:
            make_order(name)
        return name

    @field_validator("placement")
    @classmethod
    def _known_placement(cls, name: str | None) -> str | None:
        if name is not None:
            make_placement(name)
        return name
