"""Settings of a worker process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sagellm_control.wire.engine import EngineRole

from .adapters.engine_url import engine_root

if TYPE_CHECKING:
    from .adapters.engine_http import EngineOptions


class WorkerSettings(BaseModel):
    """A worker process; it serves one engine or several."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: list[str] = Field(
        default=[],
        description="URL of an engine to serve, e.g. http://127.0.0.1:8100; may be repeated. The certificate of an "
        "https URL has to be of an authority that this machine trusts, or that is in the file that SSL_CERT_FILE names",
    )
    wire: Literal["auto", "openai", "sagellm"] = Field(
        default="auto",
        description="What the engines speak; auto: the worker finds out, and takes no gateway of sagellm-control for "
        "an engine. For one of another system: openai",
    )
    adopt: bool = Field(
        default=False,
        description="Also serve engines that programs have registered by host and port and that no worker serves; "
        "several such workers share them",
    )
    role: EngineRole = Field(
        default=EngineRole.GENERAL,
        description="Which stages of a request the engines take. prefilling: they read prompts, and hand the KV cache "
        "over; decoding: they answer what a prefilling engine has read; general and hybrid: both, and whole requests",
    )
    model: list[str] = Field(
        default=[],
        description="Serve only these of the engine's models; may be repeated. Not given: all. An engine that has none "
        "of them is looked at until it has. One with several models that are not adapters of one another gets a row "
        "in each one's pool and its slots are divided, what is left over to the first by name; with more models than "
        "slots, what is too much for it waits in the worker",
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Requests an engine runs at once; not given: what it says itself, as SGLang, llama.cpp and sageLLM "
        "do. vLLM (--max-num-seqs; it tells only with VLLM_SERVER_DEV_MODE=1) and Ollama (OLLAMA_NUM_PARALLEL) do not",
    )
    default_slots: int = Field(
        default=16, ge=1, le=100_000, description="Slots assumed of an engine that does not say how many it has"
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
    stall_s: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="A worker whose event loop is blocked keeps its leases for so long (s), no longer",
    )
    health_interval_s: float = Field(default=2.0, gt=0, le=300, description="How often (s) an engine is probed")
    health_timeout_s: float = Field(
        default=4.0,
        gt=0,
        le=300,
        description="Longest wait (s) for the answer to a health probe. An engine that leaves three in a row without "
        "one, and says nothing to any request meanwhile, is given nothing more until it answers",
    )
    gone_after_s: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="When it has been so silent for so long (s), what it has goes on elsewhere. To be raised where an "
        "engine answers no probes while it works on a long prompt or a whole answer",
    )
    survey_interval_s: float = Field(
        default=30.0,
        gt=0,
        le=86_400,
        description="How often (s) an engine is asked anew what it is: models, adapters, slots, KV tokens, version. "
        "It is also asked when it answers again after it did not",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=20,
        description="With so many failed attempts, on whichever engines, a request has failed",
    )
    busy_patience_s: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="So long (s) a request waits for engines that answer 429 or 503 with a Retry-After, from the first "
        "such answer on; then such answers are failures like any other, and the client gets the last one. 0: at once",
    )
    slow_start_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="An engine that comes back after an error gets all its slots only after so long (s); until then "
        "evenly more and more. 0: at once",
    )
    longest_pause_s: float = Field(
        default=60.0,
        ge=0,
        le=3600,
        description="Longest (s) that an engine is left alone because it answered 429 or 503 with a Retry-After",
    )
    breaker_window_s: float = Field(
        default=60.0, gt=0, le=3600, description="Over how long (s) an engine's failures are counted"
    )
    breaker_min_requests: int = Field(
        default=10, ge=1, le=1_000_000, description="With fewer requests in the window the circuit stays closed"
    )
    breaker_error_rate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="At this share of failed requests an engine's circuit opens: it gets none, then one as a trial, as "
        "long as other engines take its requests",
    )
    breaker_open_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="For how long (s) a circuit opens; twice as long each time that the trial fails, up to 60 s",
    )
    answer_limit_bytes: int = Field(
        default=64 * 2**20,
        ge=1024,
        le=512 * 2**20,
        description="Longest answer of an engine (bytes); a longer one is cut off and counts as broken",
    )
    retry_share: float = Field(
        default=0.2,
        ge=0,
        le=20,
        description="Retries that a pool may spend on each request accepted in the last 10 to 20 s: so an outage of "
        "all engines does not multiply the load",
    )
    retry_floor: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        description="Retries that a pool may spend in 10 s on top of that, and no fewer than the failing engine has "
        "slots; 0: none",
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, le=300, description="Longest wait (s) for a connection")
    first_byte_timeout_s: float = Field(
        default=600.0,
        gt=0,
        le=86_400,
        description="Longest wait (s) for the first byte of an answer; comments of a stream are none",
    )
    gap_timeout_s: float = Field(
        default=120.0,
        gt=0,
        le=86_400,
        description="Longest wait (s) between two bytes of an answer; comments of a stream are none",
    )
    drain_s: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="On SIGTERM: so long (s) may running answers take to finish. Some 5 s later the worker ends, "
        "whatever Redis does",
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
            engine_root(url)
        return urls

    @property
    def engine_options(self) -> EngineOptions:
        """What an adapter has to know of these settings."""
        return {
            "api_key": self.api_key,
            "pass_priority": self.pass_priority,
            "connect_timeout_s": self.connect_timeout_s,
            "first_byte_timeout_s": self.first_byte_timeout_s,
            "gap_timeout_s": self.gap_timeout_s,
            "health_timeout_s": self.health_timeout_s,
            "answer_limit_bytes": self.answer_limit_bytes,
        }
