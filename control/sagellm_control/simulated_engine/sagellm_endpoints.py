"""sageLLM's own wire: /v1/completions (text, or vectors for `texts`), /v1/completions/stream and /info."""

from __future__ import annotations

import orjson
from aiohttp import web

from .answering import counted, generate, meet_fault, run_works
from .batcher import Work
from .engine import Engine
from .faults import FAULT_HEADER
from .generation import read_generation, read_model
from .prompts import Prompt, read_chat, read_completion, read_texts
from .refusal import Refusal
from .request_body import RequestBody
from .sagellm_reply import SagellmReply
from .vectors import embedding

# What programs send as model when any will do.
_ANY_MODEL = (None, "", "default")


class SagellmEndpoints:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/completions", counted(self._engine, self.completions)),
            web.post("/v1/completions/stream", counted(self._engine, self.stream)),
            web.get("/info", self.info),
        ]

    async def completions(self, request: web.Request, body: RequestBody) -> web.StreamResponse:
        if body.fields.get("texts") is not None:
            return await self._embed(request, body)
        return await generate(self._engine, request, self._read(body), stream=False)

    async def stream(self, request: web.Request, body: RequestBody) -> web.StreamResponse:
        return await generate(self._engine, request, self._read(body), stream=True)

    async def info(self, request: web.Request) -> web.Response:
        fields = {
            "engine_id": self._settings.engine_id,
            "model": self._settings.models[0],
            "models": self._settings.models,
            "max_concurrent_requests": self._settings.slots,
        }
        return web.Response(body=orjson.dumps(fields), content_type="application/json")

    def _read(self, body: RequestBody) -> SagellmReply:
        identity = _identity(body)
        prompt = self._read_prompt(body)
        # The wire has one answer a request: n is a field of OpenAI's.
        body = RequestBody({name: value for name, value in body.fields.items() if name != "n"})
        request_id = str(identity["request_id"])
        generation = read_generation(body, [prompt], self._model(body), request_id, self._settings)
        return SagellmReply(generation, identity, self._settings.engine_id)

    def _read_prompt(self, body: RequestBody) -> Prompt:
        if body.fields.get("messages"):
            return read_chat(body)
        if body.text("prompt") is None:
            raise Refusal(400, "prompt is missing (or give messages)", param="prompt")
        return read_completion(body)[0]

    def _model(self, body: RequestBody) -> str:
        if body.text("model") in _ANY_MODEL:
            return self._settings.models[0]
        return read_model(body, self._settings.models)

    async def _embed(self, request: web.Request, body: RequestBody) -> web.StreamResponse:
        identity = _identity(body)
        self._model(body)
        texts = read_texts(body, "texts")
        fault = self._engine.faults.choose(request.headers.get(FAULT_HEADER))
        if fault is not None:
            return await meet_fault(self._engine, request, fault, stream=False)
        await run_works(self._engine, [Work(sum(text.tokens for text in texts), 0)])
        self._engine.counts.finished += 1
        answer = identity | {"embeddings": [embedding(text.text) for text in texts]}
        return web.Response(body=orjson.dumps(answer), content_type="application/json")


def _identity(body: RequestBody) -> dict[str, object]:
    request_id = body.text("request_id")
    if request_id is None:
        raise Refusal(400, "request_id is missing", param="request_id")
    return {"request_id": request_id, "trace_id": body.text("trace_id") or ""}
