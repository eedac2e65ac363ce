"""Settings of a worker process."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class WorkerSettings(BaseModel):
    """A worker process; it serves one engine or several."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: list[str] = Field(
        default=[], description="URL of an engine to serve, e.g. http://127.0.0.1:8100; may be repeated"
    )
    wire: Literal["auto", "openai", "sagellm"] = Field(
        default="auto", description="What the engines speak; auto: the worker finds out"
    )
    model: list[str] = Field(
        default=[],
        description="Serve only these of the engine's models; may be repeated. Not given: all. An engine with several "
        "models that are not adapters of one another gets a row in each one's pool and its slots are divided",
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Requests an engine runs at once; not given: what it says itself",
    )
    default_slots: int = Field(
        default=16, ge=1, le=100_000, description="Slots of an engine that does not say how many it has"
    )
    prefetch: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Requests the worker holds ready on top of the slots. They save an engine the milliseconds "
        "between two requests, and can no longer be overtaken by a more urgent one",
    )
    kv_tokens: int | None = Field(
        default=None,
        ge=0,
        le=10**12,
        description="Tokens an engine's KV cache holds, which bound what it is given; 0: no bound. Not given: what it "
        "says itself",
    )
    pass_priority: bool = Field(
        default=True,
        description="Pass a request's class on to engines that know priorities (vLLM, SGLang), in the field 'priority'",
    )
    api_key: str | None = Field(default=None, description="Sent to the engines as 'Authorization: Bearer …'")
    lease_s: float = Field(
        default=5.0,
        ge=0.5,
        le=300,
        description="A worker not heard of for so long (s) loses its requests to others",
    )
    health_interval_s: float = Field(default=2.0, gt=0, le=300, description="How often (s) an engine is probed")
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=20,
        description="With so many failed attempts, on whichever engines, a request has failed",
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, le=300, description="Longest wait (s) for a connection")
    first_byte_timeout_s: float = Field(
        default=600.0, gt=0, le=86_400, description="Longest wait (s) for the first byte of an answer"
    )
    gap_timeout_s: float = Field(
        default=120.0, gt=0, le=86_400, description="Longest wait (s) between two bytes of an answer"
    )
    drain_s: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="On SIGTERM: so long (s) may running answers take to finish",
    )
    trust_env: bool = Field(
        default=False, description="Reach engines through the proxies that HTTP_PROXY and its kin name"
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address of the metrics server")
    metrics_port: int = Field(default=0, ge=0, le=65_535, description="Port of the metrics server; 0: none")

    @field_validator("engine")
    @classmethod
    def _are_urls(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is not a URL: it must begin with http:// or https://")
        return urls
