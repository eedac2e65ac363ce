"""Finds out which wire an engine speaks, and what it says about itself."""

from __future__ import annotations

import asyncio
from typing import Unpack

import httpx

from .base import EngineAdapter, EngineFacts, EngineUnreachable
from .engine_http import Answer, EngineHttp, EngineOptions
from .openai_facts import MODELS_PATH, survey_from
from .openai_http import OpenAIHttpAdapter
from .sagellm import SageLLMAdapter, is_sagellm

ADAPTERS = {"openai": OpenAIHttpAdapter, "sagellm": SageLLMAdapter}
"""By the wire that each speaks."""
WIRES = ("auto", *ADAPTERS)
"""What may be said of an engine's wire; auto: it is found out."""


async def discover(
    url: str, client: httpx.AsyncClient, *, wire: str = "auto", **options: Unpack[EngineOptions]
) -> tuple[EngineAdapter, EngineFacts]:
    """The adapter for the engine at `url` (with or without /v1), and its facts.

    `wire`: one of ``WIRES``; `options`: key and limits, as for the adapters.

    Raises EngineUnreachable if the engine does not answer or is not ready yet: try later. Raises ValueError
    if the settings are wrong (url, wire, missing key) or if what answers is no engine: somebody must look. A gateway
    of this project is none where the wire is to be found out.
    """
    if named := _named(wire, url, client, **options):
        return named, await named.probe()
    adapter, facts = await _find(url, client, **options)
    if facts.gateway:
        raise ValueError(_is_gateway(adapter, "worker.wire (SAGELLM_CONTROL_WORKER_WIRE)"))
    return adapter, facts


def _is_gateway(adapter: EngineAdapter, wire: str) -> str:
    # The own one would get each request again under the id that it has there already.
    return (
        f"{adapter.url} is a gateway of sagellm-control: name the engines behind it; one of another system is taken "
        f"where {wire} is openai"
    )


def _named(
    wire: str, url: str, client: httpx.AsyncClient, **options: Unpack[EngineOptions]
) -> OpenAIHttpAdapter | SageLLMAdapter | None:
    """The adapter for this wire; None: it is to be found out. Raises ValueError: there is no such wire."""
    if wire not in WIRES:
        raise ValueError(f"wire {wire!r} is none of {', '.join(WIRES)}")
    return ADAPTERS[wire](url, client, **options) if wire in ADAPTERS else None


async def _find(
    url: str, client: httpx.AsyncClient, **options: Unpack[EngineOptions]
) -> tuple[EngineAdapter, EngineFacts]:
    http = EngineHttp(url, client, **options)
    models, info, root = await asyncio.gather(_get(http, MODELS_PATH), _get(http, "/info"), _get(http, "/"))
    if isinstance(models, EngineUnreachable):
        raise models
    # sageLLM's engines have no list of models; what has one speaks OpenAI's wire, whatever else it answers.
    if models.status != 200 and isinstance(info, Answer) and is_sagellm(info):
        sagellm = SageLLMAdapter(url, client, **options)
        return sagellm, sagellm.learn(info, root if isinstance(root, Answer) else Answer(0, b""))
    if models.status in (404, 405, 501):
        if isinstance(info, Answer) and info.status == 503:
            raise EngineUnreachable(f"engine {http.url} is not ready: GET /info answered 503")
        raise ValueError(
            f"{http.url} speaks neither OpenAI's wire (GET {MODELS_PATH} answered {models.status}) nor "
            f"sageLLM's (GET /info); if it is an engine all the same, set worker.wire (SAGELLM_CONTROL_WORKER_WIRE) to "
            "openai or sagellm"
        )
    openai = OpenAIHttpAdapter(url, client, **options)
    return openai, openai.learn(await survey_from(http, models))


async def discover_registered(
    url: str, client: httpx.AsyncClient, *, wire: str = "auto", **options: Unpack[EngineOptions]
) -> tuple[EngineAdapter, EngineFacts | None]:
    """The adapter for an engine that somebody has registered, and its facts; None: nothing was asked, or told.

    Raises EngineUnreachable if it does not answer, ValueError if `wire` or the address is wrong.
    """
    if named := _named(wire, url, client, **options):
        return named, None
    own = SageLLMAdapter(url, client, **options)
    try:
        found, facts = await _find(url, client, **options)
    except ValueError as error:
        # It tells nothing about itself. What programs of the sageLLM control plane run speaks at least its wire.
        if await own.healthy():
            return own, None
        raise EngineUnreachable(str(error)) from error
    if facts.gateway:
        raise EngineUnreachable(_is_gateway(found, "metadata['wire']"))
    return found, facts


async def adapter_for(
    url: str, client: httpx.AsyncClient, *, wire: str = "auto", **options: Unpack[EngineOptions]
) -> EngineAdapter:
    """The adapter alone; see ``discover_registered``."""
    return (await discover_registered(url, client, wire=wire, **options))[0]


async def facts_of(adapter: EngineAdapter) -> EngineFacts | None:
    """What the engine says about itself; None: nothing. Raises EngineUnreachable if it does not answer."""
    try:
        return await adapter.probe()
    except ValueError:
        return None


async def kind_of(adapter: EngineAdapter) -> str:
    """Which server the engine is (see ``EngineFacts.kind``); the wire that it speaks, where it does not say.

    Raises EngineUnreachable if it does not answer.
    """
    facts = await facts_of(adapter)
    return facts.kind if facts else adapter.name


async def _get(http: EngineHttp, path: str) -> Answer | EngineUnreachable:
    try:
        return await http.get(path)
    except EngineUnreachable as error:
        return error
