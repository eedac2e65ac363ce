"""The OpenAI HTTP API, which vLLM, SGLang, llama.cpp, Ollama and most others speak. Bytes go through.

But for one field: engines that know priorities are told the request's (see `engine_priority`).
"""

from __future__ import annotations

from typing import Unpack

import httpx

from .base import EngineCall, EngineFacts
from .engine_http import EngineHttp, EngineOptions, Exchange
from .engine_priority import with_priority
from .openai_facts import survey

PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions", "embedding": "/v1/embeddings"}


class OpenAIHttpAdapter:
    """Sends the client's body unchanged and gives the engine's answer unchanged."""

    name = "openai"

    def __init__(self, url: str, client: httpx.AsyncClient, **options: Unpack[EngineOptions]) -> None:
        self._http = EngineHttp(url, client, **options)
        self._pass_priority = options.get("pass_priority", True)
        self._priority_order = ""
        self.bootstrap_port = 0
        self._addresses = {kind: self._http.address(path) for kind, path in PATHS.items()}

    @property
    def url(self) -> str:
        return self._http.url

    @property
    def heard_at(self) -> float:
        return self._http.heard_at

    async def probe(self) -> EngineFacts:
        return self.learn(await survey(self._http))

    def learn(self, facts: EngineFacts) -> EngineFacts:
        """Take over what the adapter itself needs of what the engine has told."""
        self._priority_order = facts.priority_order if self._pass_priority else ""
        self.bootstrap_port = facts.bootstrap_port
        return facts

    async def healthy(self) -> bool:
        return await self._http.healthy() is not None

    def run(self, call: EngineCall) -> Exchange:
        address = self._addresses.get(call.kind)
        if address is None:
            raise ValueError(f"kind {call.kind!r} is none of {', '.join(PATHS)}")
        body = with_priority(call.body, call.priority, self._priority_order)
        return Exchange(self._http, address, call, body)
