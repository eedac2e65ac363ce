"""What a client has of an answer: read from the server-sent events that earlier attempts have logged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ..adapters.loose_json import items, mapping, text
from ..adapters.sse import data_of

DONE = b"[DONE]"
HEAD_FIELDS = ("id", "created", "model")
"""What all chunks of one answer have in common."""

_REASONING = ("reasoning_content", "reasoning")
_PLAIN = {"role", "content", "token_ids", *_REASONING}


@dataclass(slots=True)
class GivenAnswer:
    """The first part of an answer, as far as it is out."""

    head: dict[str, Any]
    """Id, time and model of its chunks; empty: there has been no chunk."""
    opened: bool = False
    """The role has been told."""
    text: str = ""
    tokens: int = 0
    """Of the text. Exact where the engine tells (usage with every chunk, token ids), else the number of chunks."""
    prompt_tokens: int | None = None
    """None: the engine has not told."""
    finish_reason: str = ""
    usage_given: bool = False
    done: bool = False
    """``[DONE]`` is out."""
    obstacle: str = ""
    """Why nothing may be put behind it, as the end of a sentence; empty: something may."""

    @classmethod
    def read(cls, kind: str, payloads: Iterable[bytes]) -> GivenAnswer:
        """Read the chunks of a log, of a request of this kind (``chat`` or ``completion``)."""
        given = cls({})
        for payload in payloads:
            for data in filter(bytes.strip, data_of(payload)):
                if data.strip() == DONE:
                    given.done = True
                    continue
                try:
                    chunk = orjson.loads(data)
                except orjson.JSONDecodeError:
                    given.obstacle = "what came of it cannot be read"
                    continue
                given._add(kind, mapping(chunk))
        # A model whose reasoning is part of its text: a template would take it out of a message, or close it.
        if "<think>" in given.text and "</think>" not in given.text:
            given.obstacle = given.obstacle or "the model is still reasoning"
        return given

    def _add(self, kind: str, chunk: Mapping[str, Any]) -> None:
        if chunk.get("error"):
            self.obstacle = "it has ended with an error"
            return
        if not self.head:
            self.head = {name: chunk[name] for name in HEAD_FIELDS if chunk.get(name) is not None}
        choices = [mapping(choice) for choice in items(chunk.get("choices"))]
        for choice in choices:
            self._add_choice(kind, choice)
        if usage := mapping(chunk.get("usage")):
            self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
            self.tokens = _count(usage.get("completion_tokens"), self.tokens)
            self.usage_given = not choices

    def _add_choice(self, kind: str, choice: Mapping[str, Any]) -> None:
        if choice.get("index"):
            self.obstacle = "it is more than one answer"
        if choice.get("logprobs"):
            self.obstacle = "it has log probabilities"
        delta = mapping(choice.get("delta"))
        piece = text(delta.get("content") if kind == "chat" else choice.get("text"))
        self.opened = self.opened or "role" in delta
        if any(delta.get(name) for name in _REASONING):
            self.obstacle = "the model has begun to reason"
        elif delta.get("tool_calls") or delta.get("function_call"):
            self.obstacle = "it has begun to call a tool"
        elif any(value for name, value in delta.items() if name not in _PLAIN):
            self.obstacle = "it is more than text"
        if piece:
            self.text += piece
            self.tokens += len(items(choice.get("token_ids"))) or 1
        self.finish_reason = text(choice.get("finish_reason")) or self.finish_reason


def _count(value: object, otherwise: Any) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
