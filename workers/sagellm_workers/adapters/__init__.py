"""How a worker talks to an engine: one adapter a wire, all with the same face (see `base`)."""

from __future__ import annotations

from .base import (
    EngineAdapter,
    EngineBroken,
    EngineCall,
    EngineError,
    EngineFacts,
    EngineReply,
    EngineTimeout,
    EngineUnreachable,
    ModelFacts,
)
from .openai_http import OpenAIHttpAdapter
from .sagellm import SageLLMAdapter

__all__ = [
    "EngineAdapter",
    "EngineBroken",
    "EngineCall",
    "EngineError",
    "EngineFacts",
    "EngineReply",
    "EngineTimeout",
    "EngineUnreachable",
    "ModelFacts",
    "OpenAIHttpAdapter",
    "SageLLMAdapter",
]
