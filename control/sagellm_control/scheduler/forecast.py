"""What is expected of a request before it has run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Forecast:
    """Expected sizes and times of one request on a typical engine of its pool."""

    prompt_tokens: int
    output_tokens: float
    prefill_ms: float
    """Of the whole prompt, on an idle engine, with nothing cached."""
    decode_ms: float
    """Of the whole output, at the batch size that is usual now."""
    engines: int = 1
    """READY engines, which share the work of the pool."""

    @property
    def kv_tokens(self) -> float:
        """What it holds in the KV cache when it ends."""
        return self.prompt_tokens + self.output_tokens


UNKNOWN = Forecast(0, 0.0, 0.0, 0.0)
"""Of a request about which nothing is known."""
