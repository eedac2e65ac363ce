"""What an operator may set about a pool's policy: plain fields, as they are recorded in the pool's settings hash."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

DEFAULT_ORDER = "shortest"
DEFAULT_PLACEMENT = "kv_cost"
DEFAULT_AGING_S = 60.0
"""A minute of head start a class: long against a burst, short against a person's patience with a batch job."""


class WhenLate(StrEnum):
    """What becomes of a request that cannot meet its objective any more."""

    STEP_BACK = "step_back"
    """It is served when nobody waits who can still make it, and ages from there."""
    REFUSE = "refuse"
    SERVE = "serve"
    """Its place in line stays what it was."""


class WhenOverloaded(StrEnum):
    """Whether a pool has an overload mode."""

    OFF = "off"
    CODEL = "codel"
    """Controlled delay and adaptive LIFO; see ``overload``."""


class PolicySettings(BaseModel):
    """Parameters of orders, placements and room. Each field is one field of the pool's settings hash."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str = Field(default=DEFAULT_ORDER, description="Who is next")
    placement: str = Field(default=DEFAULT_PLACEMENT, description="On which engine")

    aging_s: float = Field(
        default=DEFAULT_AGING_S, ge=0, le=86_400, description="Head start (s) of a priority class over the next"
    )
    least_share: float = Field(
        default=0.01,
        ge=0,
        le=0.2,
        description="priority, kv_aware: part of the work that BACKGROUND gets at least while it waits; 0: aging alone",
    )
    inner: Literal["fifo", "slo_aware", "shortest"] = Field(
        default="fifo",
        description="fair: the order inside a tenant; none that looks at the class, which comes before the tenant",
    )
    stretch: float = Field(
        default=20.0,
        ge=0,
        le=10_000,
        description="shortest: by how many times its own work a request may be passed by what came later",
    )
    decode_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="shortest, priority: part of its decode time that a request costs an engine: one over the batch",
    )
    input_weight: float = Field(default=1.0, ge=0, le=1000, description="fair: what a prompt token counts")
    output_weight: float = Field(default=2.0, ge=0, le=1000, description="fair: what an output token counts")
    fair_tokens_per_s: float = Field(
        default=10_000.0,
        gt=0,
        le=1e9,
        description="fair: weighted tokens that the pool serves a second, roughly: the scale of shares and classes",
    )
    patience_s: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="kv_aware: a request that does not fit is passed by those that rank up to so much (s) behind it",
    )

    ttft_slo_ms: int = Field(
        default=0,
        ge=0,
        le=86_400_000,
        description="Objective (ms) for the first token of requests that name none; 0: none",
    )
    tpot_slo_ms: int = Field(
        default=0,
        ge=0,
        le=600_000,
        description="Objective (ms) for the mean time per output token of requests that name none; 0: none, no pace",
    )
    late: WhenLate = Field(
        default=WhenLate.STEP_BACK, description="What becomes of a request that cannot meet its objective any more"
    )

    overload: WhenOverloaded = Field(
        default=WhenOverloaded.OFF, description="Whether the pool has an overload mode for CRITICAL, HIGH and NORMAL"
    )
    overload_interval_ms: int = Field(
        default=10_000,
        ge=100,
        le=3_600_000,
        description="codel: a class whose line has not been empty for so long (ms) is overloaded",
    )
    overload_target_ms: int = Field(
        default=5_000,
        ge=1,
        le=3_600_000,
        description="codel: in an overloaded class, who comes to the head after waiting for longer (ms) is refused",
    )

    max_lapses: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="A request with which so many workers were lost is given up: it is taken for the cause",
    )

    hold_ms: int = Field(
        default=2000,
        ge=0,
        le=60_000,
        description="session, prefix_affinity, kv_cost, soonest (30 times as long): longest wait (ms) "
        "for a better engine while another one has room",
    )
    prefix_match: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="prefix_affinity: least share of the prompt that an engine must have cached",
    )
    balance: float = Field(
        default=0.25,
        ge=0,
        le=100,
        description="prefix_affinity: share of the prompt that must be cached on an engine with twice the recent work",
    )
    guard_requests: int = Field(
        default=16,
        ge=0,
        le=10_000,
        description="prefix_affinity: it ends where an engine has so many more requests than the emptiest",
    )
    guard_ratio: float = Field(default=1.5, ge=1, le=100, description="… and so many times as many")
    hash_blocks: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="consistent_hash: how many blocks of the prompt name its place on the ring",
    )
    bound: float = Field(
        default=1.25, gt=1, le=100, description="consistent_hash: most requests of an engine, as a multiple of the mean"
    )
    prefill_weight: float = Field(
        default=1.0, ge=0, le=1000, description="kv_cost: what a prompt token left to prefill counts"
    )
    decode_weight: float = Field(
        default=0.1, ge=0, le=1000, description="kv_cost: what a token held in the KV cache counts"
    )

    @property
    def aging_ms(self) -> float:
        """The aging in ms."""
        return self.aging_s * 1000

    def fields(self) -> dict[str, str]:
        """What differs from the default, as fields of the pool's settings hash."""
        return {name: str(value) for name, value in self.model_dump(mode="json", exclude_defaults=True).items()}


DEFAULTS = PolicySettings()


def read_policy_settings(fields: Mapping[str, str]) -> PolicySettings:
    """Read a pool's settings hash; fields that are not of the policy are left to others.

    Raises:
        ValueError: names each field that is wrong, what it may be, and what it is.
    """
    known = {name: fields[name] for name in PolicySettings.model_fields if name in fields}
    try:
        return PolicySettings.model_validate(known)
    except ValidationError as error:
        raise ValueError("; ".join(describe(known, error))) from None


def describe(given: Mapping[str, object], error: ValidationError) -> list[str]:
    """One line for each field that is wrong: ``aging_s must be greater than or equal to 0, not '-1'``."""
    lines: list[str] = []
    for wrong in error.errors():
        name = str(wrong["loc"][0]) if wrong["loc"] else "settings"
        says = wrong["msg"].removeprefix("Input should be ")
        lines.append(f"{name} must be {says}, not {str(given.get(name, ''))[:40]!r}")
    return lines
