"""A built-in OpenAI-compatible engine without a model: for demos, tests and load tests.

It batches continuously as real engines do, its answers can be predicted token by token, and it can be told
to fail. The server is in ``process``, which is not imported here: settings are read by every command.
"""

from __future__ import annotations

from .answers import answer_tokens
from .prompts import chat_prompt, count_prompt_tokens
from .settings import FaultSettings, SimulatedEngineSettings
from .vectors import embedding

__all__ = [
    "FaultSettings",
    "SimulatedEngineSettings",
    "answer_tokens",
    "chat_prompt",
    "count_prompt_tokens",
    "embedding",
]
