"""Settings of a gateway process."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..store.steps.accept import AcceptLimits
from ..wire.priority import RequestPriority

MEBIBYTE = 1 << 20


class GatewaySettings(BaseModel):
    """A gateway process; any number of them may run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; 0.0.0.0 opens it to the network (use --api-keys then)",
    )
    port: int = Field(default=8000, ge=0, le=65_535, description="Port to listen on; 0: any free one")
    api_keys: Path | None = Field(
        default=None,
        description="TOML file of hashed API keys (see 'sagellm-control api-key'); with it every request needs a key. "
        "It is read again when it changes",
    )
    max_body_bytes: int = Field(
        default=32 * MEBIBYTE, ge=1024, le=512 * MEBIBYTE, description="Largest request body (bytes)"
    )
    body_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="Longest silence (s) while a request's body arrives; beyond it: 408, and the connection is closed",
    )
    request_timeout_s: float = Field(
        default=600.0,
        gt=0,
        le=86_400,
        description="From accept to the last byte (s), for requests without an X-Request-Timeout-Ms header",
    )
    keepalive_s: float = Field(
        default=5.0,
        gt=0,
        le=300,
        description="A stream that has nothing to say for so long (s) gets an SSE comment, so that proxies keep it",
    )
    fast_path: bool = Field(
        default=True,
        description="Give a request that nobody is ahead of to its engine at once, by the pool's own policy, rather "
        "than leave that to a scheduler",
    )
    max_waiting: int = Field(
        default=100_000, ge=1, le=100_000_000, description="Most requests that wait in a pool; beyond it: 429"
    )
    hold_requests: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="So many requests may wait in a pool that has no READY engine, e.g. while one is started for them; "
        "0: they get 503 at once",
    )
    hold_s: float = Field(
        default=30.0, gt=0, le=86_400, description="For so long (s) they wait; then 503 with Retry-After"
    )
    max_waiting_bytes: int = Field(
        default=0, ge=0, le=1 << 50, description="Most bytes of bodies that wait in a pool; beyond it: 429. 0: any"
    )
    tenant_max_waiting: int = Field(
        default=0, ge=0, le=100_000_000, description="Most requests of one tenant that wait in a pool. 0: any"
    )
    tenant_max_waiting_bytes: int = Field(
        default=0, ge=0, le=1 << 50, description="Most bytes of one tenant that wait in a pool. 0: any"
    )
    class_max_waiting: list[str] = Field(
        default=[],
        description="Most requests of a priority class that wait in a pool, as CLASS=NUMBER; may be repeated",
    )
    class_max_waiting_bytes: list[str] = Field(
        default=[], description="Most bytes of a priority class that wait in a pool, as CLASS=BYTES; may be repeated"
    )
    queue_ttl: list[str] = Field(
        default=[],
        description="Longest wait (s) for an engine of a priority class, as CLASS=SECONDS; may be repeated. Beyond it "
        "a request ends as expired; not given: its timeout alone counts",
    )
    result_ttl_s: float = Field(
        default=600.0, ge=1, le=604_800, description="For how long (s) a finished request can be read"
    )
    mid_stream_retry: bool = Field(
        default=True,
        description="A stream whose engine is lost goes on from another one where that is possible; a client may say "
        "no with the header X-Mid-Stream-Retry: never",
    )
    orphan_grace_s: float = Field(
        default=30.0,
        ge=0,
        le=604_800,
        description="A request whose gateway was lost, or stopped before the answer was complete, or whose client left "
        "and asked for event ids before, is cancelled when nobody has come back for so long (s)",
    )
    shutdown_s: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="On SIGTERM: so long (s) may open answers take to finish; who still waits then is told so",
    )

    @field_validator("class_max_waiting", "class_max_waiting_bytes", "queue_ttl")
    @classmethod
    def _by_class(cls, texts: list[str]) -> list[str]:
        numbers_by_class(texts)
        return texts

    def accept_limits(self) -> AcceptLimits:
        """What the pools take."""
        return AcceptLimits(
            max_waiting=self.max_waiting,
            max_waiting_bytes=self.max_waiting_bytes,
            tenant_waiting=self.tenant_max_waiting,
            tenant_waiting_bytes=self.tenant_max_waiting_bytes,
            class_waiting=tuple(map(round, numbers_by_class(self.class_max_waiting))),
            class_waiting_bytes=tuple(map(round, numbers_by_class(self.class_max_waiting_bytes))),
            hold_requests=self.hold_requests,
            hold_s=self.hold_s,
            keep_result_ms=int(self.result_ttl_s * 1000),
        )

    def queue_ttl_ms(self, priority: RequestPriority) -> int:
        """For how long a request of this class may wait; 0: for ever."""
        if not self.queue_ttl:
            return 0
        return round(numbers_by_class(self.queue_ttl)[priority] * 1000)


def numbers_by_class(texts: list[str]) -> tuple[float, ...]:
    """The numbers of ``CLASS=NUMBER`` texts, the most urgent class first; 0 for a class that is not named.

    Raises:
        ValueError: says what is wrong with which text.
    """
    numbers = [0.0] * len(RequestPriority)
    for text in texts:
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 < value < 1e15:
            raise ValueError(f"{text!r} must be CLASS=NUMBER, the number above 0")
        numbers[RequestPriority.parse(name)] = value
    return tuple(numbers)
