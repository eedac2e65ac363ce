"""A client of an engine object in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

from sagellm_protocol import Request, Response

_FIELDS = {
    "start": ("prompt_tokens",),
    "delta": ("content", "content_tokens"),
    "end": ("content", "output_tokens", "finish_reason"),
}
_METRICS = ("ttft_ms", "tbt_ms", "tpot_ms", "throughput_tps", "peak_mem_mb", "error_rate")


class LocalEngine(Protocol):
    """An engine object; also what ``metadata["engine_instance"]`` of a registration holds."""

    engine_id: str

    async def execute(self, request: Request) -> Response: ...
    def stream(self, request: Request) -> AsyncIterator[Any]: ...
    async def health_check(self) -> bool: ...


class LocalEngineClient:
    """Calls an engine object as one would call an engine over HTTP.

    Raises:
        AttributeError: the engine has no ``engine_id``.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._engine_id = engine.engine_id

    @property
    def engine_id(self) -> str:
        """The engine's id."""
        return self._engine_id

    async def execute_request(self, request: Request) -> Response:
        """The engine's response; its exceptions come through."""
        return await self._engine.execute(request)

    async def stream_request(self, request: Request) -> AsyncGenerator[dict[str, Any], None]:
        """The engine's events as dicts; its exceptions come through."""
        async for event in self._engine.stream(request):
            yield as_dict(event)

    async def health_check(self) -> bool:
        """What the engine says."""
        return await self._engine.health_check()

    async def close(self) -> None:
        """Nothing to close."""


def as_dict(event: Any) -> dict[str, Any]:
    """A stream event of the protocol as sageLLM's wire writes it."""
    kind = event.event
    fields: dict[str, Any] = {"event": kind, "request_id": event.request_id, "trace_id": event.trace_id}
    fields |= {name: getattr(event, name) for name in _FIELDS.get(kind, ())}
    if kind == "end":
        fields["metrics"] = {name: getattr(event.metrics, name) for name in _METRICS}
    return fields
