"""The OpenAI wire: chat completions, completions, embeddings, and how llama.cpp tells its slots."""

from __future__ import annotations

from dataclasses import replace

import orjson
from aiohttp import web

from .answering import counted, generate, meet_fault, run_works
from .batcher import Work
from .bootstrap import Rooms
from .engine import Engine
from .faults import FAULT_HEADER
from .generation import Generation, new_reply_id, read_generation, read_model
from .kv_transfer import FIELD
from .openai_reply import ChatReply, TextReply
from .prompts import read_chat, read_completion, read_texts
from .refusal import Refusal
from .request_body import RequestBody
from .vectors import DEFAULT_DIMENSIONS, MAX_DIMENSIONS, base64_embedding, embedding


class OpenAIEndpoints:
    def __init__(self, engine: Engine, started_at: int) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._started_at = started_at
        self._owner = "sglang" if engine.rooms is not None else "sagellm-simulated"

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", counted(self._engine, self.chat)),
            web.post("/v1/completions", counted(self._engine, self.completions)),
            web.post("/v1/embeddings", counted(self._engine, self.embeddings)),
            web.get("/v1/models", self.models),
            web.get("/props", self.props),
        ]

    async def chat(self, request: web.Request, body: RequestBody) -> web.StreamResponse:
        model = read_model(body, self._settings.models)
        prompt = read_chat(body)
        generation = read_generation(body, [prompt], model, new_reply_id("chatcmpl"), self._settings)
        return await self._answer(request, body, generation, ChatReply)

    async def completions(self, request: web.Request, body: RequestBody) -> web.StreamResponse:
        model = read_model(body, self._settings.models)
        prompts = read_completion(body)
        generation = read_generation(body, prompts, model, new_reply_id("cmpl"), self._settings)
        return await self._answer(request, body, generation, TextReply)

    async def _answer(
        self, request: web.Request, body: RequestBody, generation: Generation, wire: type[ChatReply | TextReply]
    ) -> web.StreamResponse:
        if (rooms := self._engine.rooms) is not None:
            return await self._answer_in_pair(rooms, request, body, generation, wire)
        here = request.transport and request.transport.get_extra_info("sockname")
        host, port = here[:2] if here else (self._settings.host, self._settings.port)
        exchange = self._engine.transfers.read(body, generation, (self._settings.engine_id, host, port))
        reply = wire(generation, {} if exchange.kept is None else {FIELD: exchange.kept})
        return await generate(self._engine, request, reply, stream=generation.stream, fetched=exchange.fetched)

    async def _answer_in_pair(
        self,
        rooms: Rooms,
        request: web.Request,
        body: RequestBody,
        generation: Generation,
        wire: type[ChatReply | TextReply],
    ) -> web.StreamResponse:
        room = await rooms.enter(body)
        if self._settings.disaggregation == "decode":
            return await generate(self._engine, request, wire(generation, {}), stream=generation.stream, fetched=True)
        read = False
        try:
            first_tokens = [replace(choice, tokens=choice.tokens[:1]) for choice in generation.choices]
            reply = wire(replace(generation, choices=first_tokens), {})
            answer = await generate(self._engine, request, reply, stream=generation.stream)
            read = answer.status == 200
        finally:
            rooms.leave(room, read=read)
        return answer

    async def embeddings(self, request: web.Request, body: RequestBody) -> web.StreamResponse:
        model = read_model(body, self._settings.models)
        texts = read_texts(body, "input")
        dimensions = body.integer("dimensions", least=1, most=MAX_DIMENSIONS) or DEFAULT_DIMENSIONS
        as_base64 = body.choice("encoding_format", ("float", "base64")) == "base64"
        fault = self._engine.faults.choose(request.headers.get(FAULT_HEADER))
        if fault is not None:
            return await meet_fault(self._engine, request, fault, stream=False)
        tokens = sum(text.tokens for text in texts)
        await run_works(self._engine, [Work(tokens, 0)])
        items: list[dict[str, object]] = []
        for index, text in enumerate(texts):
            vector = embedding(text.text, dimensions)
            encoded = base64_embedding(vector) if as_base64 else vector
            items.append({"object": "embedding", "index": index, "embedding": encoded})
        self._engine.counts.finished += 1
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = orjson.dumps({"object": "list", "data": items, "model": model, "usage": usage})
        return web.Response(body=answer, content_type="application/json")

    async def models(self, request: web.Request) -> web.Response:
        try:
            self._engine.check_key(request)
        except Refusal as refusal:
            return self._engine.refusal_response(refusal)
        rows = [
            {"id": name, "object": "model", "created": self._started_at, "owned_by": self._owner}
            for name in self._settings.models
        ]
        return web.Response(body=orjson.dumps({"object": "list", "data": rows}), content_type="application/json")

    async def props(self, request: web.Request) -> web.Response:
        """As llama.cpp's server has it: a client reads from here how many answers run at once."""
        props = {
            "total_slots": self._settings.slots,
            "model_alias": self._settings.models[0],
            "model_path": "",
            "build_info": "sagellm-simulated",
        }
        return web.Response(body=orjson.dumps(props), content_type="application/json")
