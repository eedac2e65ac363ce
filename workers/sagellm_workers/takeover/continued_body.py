"""The request for the rest of an answer, in the words of the engine that is to give it.

| kind | a chat goes on | a completion goes on |
| --- | --- | --- |
| vllm, sglang | last message of the assistant's, `continue_final_message` | prompt and text as one prompt |
| llama.cpp | the same (before May 2026 it ignores the flag and continues any such message) | the same |
| simulated | the same | the same |
| sagellm, openai (unknown) | not | the same |
| ollama | not: its template decides | not: it puts the prompt into its template |

vLLM and SGLang: their protocol's `continue_final_message`, which excludes `add_generation_prompt` (vllm#8942). Under a
chat template that trims messages (Llama 3's), vLLM's prompt ends before the white space at the end of the last one, and
the model says that again: so it is never sent, and what comes of it again is left out (see ``ContinuedChunks``).
llama.cpp: ggml-org/llama.cpp#13174 and #23012; it refuses while the model may think (400), and another engine is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson

from ..adapters.loose_json import items, mapping
from ..adapters.sagellm_request import DEFAULT_MAX_TOKENS

CHAT_KINDS = frozenset({"vllm", "sglang", "llama.cpp", "simulated"})
COMPLETION_KINDS = CHAT_KINDS | {"sagellm", "openai"}
MEDIA_KINDS = frozenset({"vllm", "sglang", "simulated"})
"""Continue a chat that holds images or sound as well."""
LIMITS = ("max_completion_tokens", "max_tokens", "n_predict")
LEAST = "min_tokens"
"""What an answer has to have is owed only as far as it is not out yet."""


class CannotContinue(Exception):
    """The text says why, as the end of a sentence."""

    def __init__(self, why: str, *, anywhere: bool) -> None:
        super().__init__(why)
        self.anywhere = anywhere
        """No engine can; else this one cannot."""


def read_fields(body: bytes) -> dict[str, Any]:
    """The client's JSON.

    Raises:
        CannotContinue: it is none.
    """
    try:
        return mapping(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise CannotContinue("its body cannot be read", anywhere=True) from error


def tokens_left(engine_kind: str, fields: Mapping[str, Any], given: int) -> int | None:
    """How many tokens the client's limit leaves; None: it has set none."""
    limits = [value for name in LIMITS if isinstance(value := fields.get(name), int) and value > 0]
    if not limits and engine_kind == "sagellm":
        limits = [DEFAULT_MAX_TOKENS]
    return max(0, min(limits) - given) if limits else None


def continued(engine_kind: str, call_kind: str, fields: Mapping[str, Any], text: str, tokens: int) -> bytes:
    """The body that asks for what follows `text`, which has so many tokens.

    Raises:
        CannotContinue
    """
    lengthened = _LENGTHENED.get(call_kind)
    if lengthened is None:
        raise CannotContinue(f"a request for {call_kind} has no text", anywhere=True)
    body = {**fields, **lengthened(engine_kind, fields, text)}
    left = tokens_left(engine_kind, fields, tokens)
    if left is not None:
        named = [name for name in LIMITS if fields.get(name) is not None] or ["max_tokens"]
        body |= dict.fromkeys(named, left)
    if isinstance(least := fields.get(LEAST), int):
        body[LEAST] = max(0, least - tokens)
    return orjson.dumps(body)


def continuable(engine_kind: str, call_kind: str, text: str) -> str:
    """As much of the text as the engine's prompt is sure to end with."""
    return text.rstrip() if engine_kind == "vllm" and call_kind == "chat" else text


def shortest(fields: Mapping[str, Any]) -> bytes:
    """The body that asks for a single token: for the usage of an answer that is complete but for that."""
    named = [name for name in LIMITS if fields.get(name) is not None] or ["max_tokens"]
    return orjson.dumps({**fields, **dict.fromkeys(named, 1)} | ({LEAST: 0} if LEAST in fields else {}))


def _chat(engine_kind: str, fields: Mapping[str, Any], text: str) -> dict[str, Any]:
    if engine_kind not in CHAT_KINDS:
        raise CannotContinue(f"an engine of the kind {engine_kind} cannot go on with a chat", anywhere=False)
    messages = [mapping(message) for message in items(fields.get("messages"))]
    if engine_kind not in MEDIA_KINDS and any(_has_media(message) for message in messages):
        raise CannotContinue(f"an engine of the kind {engine_kind} cannot go on with images or sound", anywhere=False)
    if fields.get("continue_final_message") is True and messages and messages[-1].get("role") == "assistant":
        messages[-1]["content"] = str(messages[-1].get("content") or "") + text
    else:
        messages.append({"role": "assistant", "content": text})
    return {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}


def _completion(engine_kind: str, fields: Mapping[str, Any], text: str) -> dict[str, Any]:
    if engine_kind not in COMPLETION_KINDS:
        raise CannotContinue(f"an engine of the kind {engine_kind} cannot go on with a text", anywhere=False)
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(cast("list[Any]", prompt)) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise CannotContinue("its prompt is not one text", anywhere=True)
    return {"prompt": prompt + text}


def _has_media(message: Mapping[str, Any]) -> bool:
    return any(mapping(part).get("type") != "text" for part in items(message.get("content")))


_LENGTHENED: dict[str, Callable[[str, Mapping[str, Any], str], dict[str, Any]]] = {
    "chat": _chat,
    "completion": _completion,
}
