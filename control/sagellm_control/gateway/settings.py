"""Settings of a gateway process."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

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
        description="TOML file of hashed API keys (see 'sagellm-control api-key'); with it every request needs a key",
    )
    max_body_bytes: int = Field(
        default=32 * MEBIBYTE, ge=1024, le=512 * MEBIBYTE, description="Largest request body (bytes)"
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
        description="A request whose gateway was lost, or whose client left and asked for event ids before, is "
        "cancelled when nobody has come back for so long (s)",
    )
    shutdown_s: float = Field(
        default=30.0, ge=0, le=86_400, description="On SIGTERM: so long (s) may open answers take to finish"
    )
