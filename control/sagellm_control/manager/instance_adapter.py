"""An engine object of this process behind the face of an engine adapter, so that it is run like any other."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from pydantic import ValidationError
from sagellm_protocol import Request, Response

from ..engine_access import DONE, EngineBroken, EngineCall, EngineFacts, EngineReply, WholeBody, error_of
from ..local_engine_client import LocalEngine

_JSON = "application/json"
_EVENTS = "text/event-stream"


class InstanceAdapter:
    """Speaks to ``engine.execute``, ``engine.stream`` and ``engine.health_check``.

    Vectors come from ``engine.embed(texts)``, if it has that.
    """

    name = "instance"
    bootstrap_port = 0
    heard_at = float("-inf")  # its health is asked in this process: it need not be guessed

    def __init__(self, engine: LocalEngine) -> None:
        for method in ("execute", "stream", "health_check"):
            if not callable(getattr(engine, method, None)):
                raise TypeError(f"metadata['engine_instance'] must have {method}(): {engine!r} has not")
        self._engine = engine

    @property
    def url(self) -> str:
        return f"local:{self._engine.engine_id}"

    async def probe(self) -> EngineFacts:
        # It takes and gives what engines on sageLLM's wire do.
        return EngineFacts("sagellm", "", (), None, None)

    async def healthy(self) -> bool:
        try:
            return bool(await self._engine.health_check())
        except Exception:
            return False

    @asynccontextmanager
    async def run(self, call: EngineCall) -> AsyncGenerator[EngineReply, None]:
        if call.kind == "embedding":
            yield await self._vectors(orjson.loads(call.body))
            return
        try:
            request = _request(call)
        except ValidationError as error:
            yield _refusal(400, f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}")
            return
        if call.stream:
            chunks = self._chunks(call, request)
            try:
                yield EngineReply(200, _EVENTS, None, chunks)
            finally:
                await chunks.aclose()
            return
        try:
            response = await self._engine.execute(request)
        except Exception as error:
            raise EngineBroken(f"engine {self._engine.engine_id} raised {error!r}") from error
        status, body = _failure(response) or (200, _reply(call, response))
        yield EngineReply(status, _JSON, None, WholeBody(orjson.dumps(body)))

    async def _vectors(self, body: dict[str, Any]) -> EngineReply:
        embed = getattr(self._engine, "embed", None)
        if embed is None:
            return _refusal(501, f"engine {self._engine.engine_id} makes no vectors: it has no embed()")
        try:
            rows = await embed(body["input"])
        except Exception as error:
            raise EngineBroken(f"engine {self._engine.engine_id} raised {error!r}") from error
        data = [{"object": "embedding", "index": at, "embedding": list(row)} for at, row in enumerate(rows)]
        return EngineReply(200, _JSON, None, WholeBody(orjson.dumps({"object": "list", "data": data})))

    async def _chunks(self, call: EngineCall, request: Request) -> AsyncGenerator[bytes, None]:
        try:
            async for event in _events(self._engine.stream(request)):
                match event.event:
                    case "start":
                        yield _line(_extra(prompt_tokens=event.prompt_tokens))
                    case "delta":
                        yield _line(_choice(call, event.content) | _extra(content_tokens=event.content_tokens))
                    case _:
                        _, last = _failure(event) or (200, _last(call, event))
                        yield _line(last) + DONE
        except Exception as error:
            raise EngineBroken(f"engine {self._engine.engine_id} raised {error!r}") from error


async def _events(stream: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    # Closed when the reader leaves: that is how the engine learns of a cancellation.
    try:
        async for event in stream:
            yield event
    finally:
        if (close := getattr(stream, "aclose", None)) is not None:
            await close()


def _request(call: EngineCall) -> Request:
    fields: dict[str, Any] = orjson.loads(call.body)
    fields |= {"request_id": call.sent_id, "trace_id": call.trace.trace_id or call.request_id, "stream": call.stream}
    fields.setdefault("model", "")
    return Request.model_validate(fields)


def _reply(call: EngineCall, response: Response) -> dict[str, Any]:
    text = {"message": {"role": "assistant", "content": response.output_text}}
    choice = text if call.kind == "chat" else {"text": response.output_text}
    prompt, output = getattr(response, "prompt_tokens", None), len(response.output_tokens)
    return {
        "created": int(time.time()),
        "choices": [{"index": 0, "finish_reason": response.finish_reason, **choice}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": (prompt or 0) + output},
        "sagellm": {"metrics": response.metrics.model_dump(mode="json"), "output_tokens": response.output_tokens},
    }


def _last(call: EngineCall, event: Any) -> dict[str, Any]:
    prompt, output = getattr(event, "prompt_tokens", None), len(event.output_tokens)
    return {
        **_choice(call, "", event.finish_reason),
        "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": (prompt or 0) + output},
        **_extra(metrics=event.metrics.model_dump(mode="json"), output_tokens=event.output_tokens),
    }


def _failure(said: Any) -> tuple[int, dict[str, Any]] | None:
    """Status and OpenAI error of a response or end event that tells of a failure, as of an engine on sageLLM's wire."""
    error = said.error.model_dump(mode="json") if said.error is not None else None
    return error_of({"error": error, "finish_reason": said.finish_reason})


def _choice(call: EngineCall, text: str, finish_reason: str | None = None) -> dict[str, Any]:
    piece: dict[str, Any] = {"delta": {"content": text}} if call.kind == "chat" else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": finish_reason, **piece}]}


def _extra(**fields: Any) -> dict[str, Any]:
    return {"sagellm": {name: value for name, value in fields.items() if value is not None}}


def _line(fields: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def _refusal(status: int, message: str) -> EngineReply:
    body = orjson.dumps({"error": {"message": message, "code": None}})
    return EngineReply(status, _JSON, None, WholeBody(body))
