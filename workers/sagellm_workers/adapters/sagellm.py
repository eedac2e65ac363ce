"""sageLLM's own wire: /v1/completions and /v1/completions/stream, translated from and to OpenAI's.

sageLLM core 0.5 also answers some of OpenAI's paths itself, and says at its root which: those are passed
through.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Unpack

import httpx
import orjson

from .base import (
    EngineCall,
    EngineFacts,
    EngineReply,
    EngineUnreachable,
    ModelFacts,
)
from .chunks import PlainChunks, WholeBody, broke_off
from .engine_http import Answer, EngineHttp, EngineOptions, retry_after_s
from .loose_json import count, items, mapping, text
from .openai_http import PATHS
from .sagellm_reply import (
    Head,
    Unreadable,
    error_reply,
    openai_error,
    vectors_reply,
    whole_reply,
)
from .sagellm_request import Untranslatable, read_fields, to_sagellm
from .sagellm_stream import StreamTranslator, TranslatedChunks

_JSON = "application/json"
_ENDPOINT_NAMES = {"chat": "chat_completions", "embedding": "embeddings"}  # at the root of sageLLM core


class SageLLMAdapter:
    """Translates requests, replies and streams; see `sagellm_request`, `sagellm_reply`, `sagellm_stream`."""

    name = "sagellm"
    bootstrap_port = 0

    def __init__(self, url: str, client: httpx.AsyncClient, **options: Unpack[EngineOptions]) -> None:
        self._http = EngineHttp(url, client, **options)
        self._whole = self._http.address("/v1/completions")
        self._stream = self._http.address("/v1/completions/stream")
        self._passed_through: dict[str, httpx.URL] = {}  # kind → OpenAI's path; known once probed

    @property
    def url(self) -> str:
        return self._http.url

    @property
    def heard_at(self) -> float:
        return self._http.heard_at

    async def probe(self) -> EngineFacts:
        info, root, health = await asyncio.gather(*(self._http.get(path) for path in ("/info", "/", "/health")))
        if info.status >= 500 or health.status >= 500:
            raise EngineUnreachable(f"engine {self.url} is not ready: {(info.body or health.body)[:200]!r}")
        if health.status != 200 and not is_sagellm(info):
            raise ValueError(f"engine {self.url} is no sageLLM engine: GET /health answered {health.status}")
        return self.learn(info, root)

    def learn(self, info: Answer, root: Answer) -> EngineFacts:
        """Take in the answers to GET /info and GET /."""
        told, about = info.fields, root.fields
        endpoints = mapping(about.get("endpoints"))
        self._passed_through = {
            kind: self._http.address(PATHS[kind])
            for kind, name in _ENDPOINT_NAMES.items()
            if endpoints.get(name) == PATHS[kind]
        }
        return EngineFacts(
            kind="sagellm",
            version=text(about.get("version")) or text(told.get("version")),
            models=tuple(ModelFacts(name) for name in _model_names(told)),
            slots=count(told.get("max_concurrent_requests")) or count(told.get("max_batch_size")),
            kv_tokens=None,
            complete=root.status != 0,
        )

    async def healthy(self) -> bool:
        answer = await self._http.healthy()
        # sageLLM core says with status 200 that it is not well.
        return answer is not None and answer.fields.get("status") != "unhealthy"

    @asynccontextmanager
    async def run(self, call: EngineCall) -> AsyncGenerator[EngineReply]:
        if call.kind not in PATHS:
            raise ValueError(f"kind {call.kind!r} is none of {', '.join(PATHS)}")
        if not call.trace.trace_id:  # this wire wants one always, in the header and in the body
            call = replace(call, trace=replace(call.trace, trace_id=call.request_id))
        address = self._passed_through.get(call.kind)
        if address is not None:
            async with self._http.post(address, call, call.body) as response:
                yield (self._http.reply(response) if response.status_code < 400 else await self._refusal(response))
            return
        try:
            fields = read_fields(call.body)
            body = to_sagellm(call, fields)
        except Untranslatable as error:
            refusal = orjson.dumps(openai_error(str(error), status=400, param=error.param))
            yield EngineReply(400, _JSON, None, WholeBody(refusal))
            return
        streamed = call.stream and call.kind != "embedding"
        async with self._http.post(self._stream if streamed else self._whole, call, body) as response:
            if response.status_code >= 400:
                yield await self._refusal(response)
            else:
                yield await self._translated(call, fields, response)

    async def _translated(self, call: EngineCall, fields: dict[str, Any], response: httpx.Response) -> EngineReply:
        model = str(fields.get("model") or "")
        reply = self._http.reply(response)
        head = Head(call.kind, call.request_id, model, int(time.time()))
        if reply.is_event_stream:
            options = mapping(fields.get("stream_options"))
            translator = StreamTranslator(
                head,
                include_usage=options.get("include_usage") is True,
                each_usage=options.get("continuous_usage_stats") is True,
            )
            chunks = TranslatedChunks(self.url, reply.chunks, translator)
            return EngineReply(reply.status, reply.content_type, reply.retry_after_s, chunks)
        body = await _read(reply.chunks)
        try:
            if call.kind == "embedding":
                texts = items(fields.get("input"))
                # One text may come as itself or as its tokens.
                number = len(texts) if texts and not isinstance(texts[0], int) else 1
                status, body = vectors_reply(model, fields.get("encoding_format"), body, number)
            else:
                status, body = whole_reply(head, body)
        except Unreadable as error:
            raise broke_off(self.url, str(error)) from error
        return EngineReply(status, _JSON, reply.retry_after_s, WholeBody(body))

    async def _refusal(self, response: httpx.Response) -> EngineReply:
        body = error_reply(response.status_code, await _read(PlainChunks(self.url, response)))
        return EngineReply(response.status_code, _JSON, retry_after_s(response), WholeBody(body))


def is_sagellm(info: Answer) -> bool:
    """Whether the answer to GET /info is a sageLLM engine's."""
    return "engine_id" in info.fields


def _model_names(info: dict[str, Any]) -> list[str]:
    names = [name for name in map(text, items(info.get("models"))) if name]
    name = text(info.get("model")) or text(info.get("model_path"))
    if names or not name:
        return names
    # A path on the engine's disk is no name that a client would send; a hub's "owner/model" is.
    return [name.rstrip("/").rpartition("/")[2]] if name.startswith(("/", "./", "../", "~")) else [name]


async def _read(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])
