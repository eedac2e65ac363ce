"""What the in-process API borrows from the workers: the HTTP client and the adapters that talk to engines.

The only module outside the command line that imports the workers' package, and only what needs no store.
"""

from __future__ import annotations

from sagellm_workers.adapters.base import (
    EngineAdapter,
    EngineBroken,
    EngineCall,
    EngineError,
    EngineReply,
    EngineTimeout,
    EngineUnreachable,
)
from sagellm_workers.adapters.chunks import WholeBody
from sagellm_workers.adapters.engine_http import retry_after_s
from sagellm_workers.adapters.openai_http import OpenAIHttpAdapter
from sagellm_workers.adapters.sagellm import SageLLMAdapter
from sagellm_workers.adapters.sse import data_of
from sagellm_workers.discovery import ADAPTERS, discover
from sagellm_workers.prefill_decode import decode_body, prefill
from sagellm_workers.transport import EngineClient as EngineHttpClient
from sagellm_workers.transport import engine_client as engine_http_client

__all__ = [
    "ADAPTERS",
    "EngineAdapter",
    "EngineBroken",
    "EngineCall",
    "EngineError",
    "EngineHttpClient",
    "EngineReply",
    "EngineTimeout",
    "EngineUnreachable",
    "OpenAIHttpAdapter",
    "SageLLMAdapter",
    "WholeBody",
    "data_of",
    "decode_body",
    "discover",
    "engine_http_client",
    "prefill",
    "retry_after_s",
]
