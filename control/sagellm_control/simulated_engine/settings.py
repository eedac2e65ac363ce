"""Settings of the simulated engine: what it costs to answer, how it speaks, and which faults it makes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class FaultSettings(BaseModel):
    """Faults made on purpose. The four rates are fractions of the requests and exclude each other."""

    model_config = ConfigDict(extra="forbid")

    fail_rate: float = Field(
        default=0.0, ge=0, le=1, description="Fraction of requests (0 to 1) answered with fail_status."
    )
    fail_status: int = Field(default=500, ge=400, le=599, description="HTTP status of an injected failure.")
    hang_rate: float = Field(
        default=0.0, ge=0, le=1, description="Fraction of requests (0 to 1) accepted and never answered."
    )
    cut_rate: float = Field(
        default=0.0, ge=0, le=1, description="Fraction of requests (0 to 1) cut in the middle of the answer."
    )
    cut_after_tokens: int = Field(default=3, ge=0, description="Tokens sent before a connection is cut.")
    garbage_rate: float = Field(
        default=0.0, ge=0, le=1, description="Fraction of requests (0 to 1) answered with what is no JSON."
    )
    retry_after_s: int = Field(
        default=0, ge=0, description="Retry-After of injected 429 and 503 answers, in seconds; 0 sends none."
    )
    fault_seed: int = Field(default=0, description="Seed of the draws: same seed, same faults.")

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        total = self.fail_rate + self.hang_rate + self.cut_rate + self.garbage_rate
        if total > 1 + 1e-9:
            raise ValueError(f"fail_rate + hang_rate + cut_rate + garbage_rate is {total:g}: at most 1 is allowed")
        return self


class SimulatedEngineSettings(FaultSettings):
    """One simulated engine process."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8100, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    models: list[str] = Field(default=["simulated-1"], min_length=1, description="Names of the models it serves.")
    engine_id: str = Field(default="simulated", description="Name it gives itself on sageLLM's own wire.")
    wire: Literal["openai", "sagellm"] = Field(
        default="openai", description="HTTP API it speaks: openai, or sagellm (sageLLM core's own)."
    )
    api_key: str = Field(default="", description="Key clients must send as Bearer token; empty: none.")
    slots: int = Field(default=16, ge=1, description="Answers made at once; more wait in the engine (FIFO).")
    prefill_tokens_per_s: float = Field(
        default=20000.0, ge=0, description="Prompt tokens read per second, all requests together; 0 is free."
    )
    prefill_chunk_tokens: int = Field(
        default=2048,
        ge=1,
        description="Prompt tokens read at most in one iteration, between two tokens of the others.",
    )
    tpot_ms: float = Field(
        default=10.0, ge=0, description="Time per output token with one running answer, in milliseconds."
    )
    tpot_per_running_ms: float = Field(
        default=0.2, ge=0, description="Added to tpot_ms for every further running answer, in milliseconds."
    )
    default_output_tokens: int = Field(
        default=32, ge=0, description="Tokens of an answer when the request sets no max_tokens."
    )
    max_output_tokens: int = Field(
        default=131072, ge=1, description="Tokens of an answer at most, whatever the request's max_tokens."
    )
    disaggregation: Literal["", "prefill", "decode"] = Field(
        default="", description="Holds a request together with another engine, as SGLang with --disaggregation-mode."
    )
    max_body_mb: int = Field(default=64, ge=1, description="Largest request body accepted, in MiB.")
