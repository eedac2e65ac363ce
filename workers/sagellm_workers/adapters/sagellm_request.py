"""OpenAI's requests in the words of sageLLM's own wire.

    {"request_id", "trace_id", "model", "prompt", "messages", "max_tokens", "stream", "temperature", …}

A chat goes as `messages` and, for engines that only read that, as a `prompt` in the form of sageLLM
core's own. Every field that is not named here is passed on. The wire has one prompt, of text, and one
answer: what does not fit is refused by name.
"""

from __future__ import annotations

from typing import Any, cast

import orjson

from .base import EngineCall
from .engine_priority import NORMAL
from .loose_json import items, mapping

DEFAULT_MAX_TOKENS = 512  # the wire demands a limit; this is the control plane's own default (schedule_request)

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


class Untranslatable(ValueError):
    """The request has something that the wire cannot say. `param` names the field."""

    def __init__(self, param: str | None, message: str) -> None:
        super().__init__(message)
        self.param = param


def read_fields(body: bytes) -> dict[str, Any]:
    """The client's JSON. Raises Untranslatable."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Untranslatable(None, f"the body is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Untranslatable(None, "the body must be a JSON object")
    return cast(dict[str, Any], fields)


def to_sagellm(call: EngineCall, fields: dict[str, Any]) -> bytes:
    """The body to send. Raises Untranslatable."""
    sent = dict(fields)
    sent["request_id"] = call.sent_id
    sent["trace_id"] = call.trace.trace_id or call.request_id
    sent.setdefault("model", "")
    if call.kind == "embedding":
        sent["texts"] = _texts(sent.pop("input", None))
        return orjson.dumps(sent)
    if fields.get("n") not in (None, 1):
        raise Untranslatable("n", "n must be 1: this engine gives one answer a request")
    sent["prompt"] = _flattened(fields.get("messages")) if call.kind == "chat" else _prompt(fields.get("prompt"))
    sent["max_tokens"] = fields.get("max_tokens") or fields.get("max_completion_tokens") or DEFAULT_MAX_TOKENS
    sent["stream"] = call.stream
    metadata = fields.get("metadata") or {}
    if call.priority != NORMAL and isinstance(metadata, dict):
        # The wire has no field for it, and the protocol leaves `metadata` to such things. The client's own goes before.
        sent["metadata"] = {"priority": call.priority, **mapping(cast(object, metadata))}
    return orjson.dumps(sent)


def _texts(value: object) -> list[str]:
    values = [value] if isinstance(value, str) else items(value)
    texts = [text for text in values if isinstance(text, str)]
    if not texts or len(texts) < len(values):
        raise Untranslatable("input", "input must be a text or a list of texts: this engine takes no tokens")
    return texts


def _prompt(value: object) -> str:
    if len(items(value)) == 1:
        value = items(value)[0]
    if not isinstance(value, str):
        raise Untranslatable("prompt", "prompt must be one text: this engine takes neither several nor tokens")
    return value


def _flattened(messages: object) -> str:
    if not items(messages):
        raise Untranslatable("messages", "messages must be a list with at least one message")
    lines: list[str] = []
    for index, message in enumerate(items(messages)):
        if not isinstance(message, dict):
            raise Untranslatable(f"messages[{index}]", f"messages[{index}] must be an object")
        said = mapping(cast(object, message))
        role = str(said.get("role") or "user")
        lines.append(f"{_SPEAKERS.get(role, role)}: {_text_of(said.get('content'), index)}")
    return "\n".join(lines) + "\nAssistant:"


def _text_of(content: object, index: int) -> str:
    if content is None:
        return ""  # an assistant's message that only calls tools
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in items(content) or [None]:
        text = mapping(part).get("text")
        if not isinstance(text, str):
            raise Untranslatable(
                f"messages[{index}].content",
                f"messages[{index}].content must be text: this engine reads nothing else",
            )
        texts.append(text)
    return "".join(texts)
