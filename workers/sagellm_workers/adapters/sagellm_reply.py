"""sageLLM's answers in OpenAI's words: whole replies, stream events, vectors, errors.

What OpenAI's shapes have no room for (metrics, token ids, the engine's own words of a failure) goes into one
more field, `sagellm`, of the answer or of its last chunk.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any, cast

import orjson

from .loose_json import count, items, mapping, text

# The protocol's error codes (isagellm-protocol, ErrorCode) that have a status of their own; others are a 500.
_STATUS_OF_CODE = {
    "invalid_argument": 400,
    "resource_exhausted": 429,
    "unavailable": 503,
    "deadline_exceeded": 504,
    "not_implemented": 501,
}
_NO_OTHER_TRY = 422  # of a failure that no other try would mend, says the engine: nobody tries this status again
_MOST_RAW_CHARACTERS = 2000  # of an error body that is kept as it was
_EXTRAS = ("engine_id", "metrics", "output_tokens")
DONE = b"data: [DONE]\n\n"
WRONG_VECTORS = "the embeddings are not those of the texts"
"""Part of what a failure says: for who asks for vectors as a library it is an error of its own."""


class Unreadable(ValueError):
    """The engine's answer is not what the wire promises."""


class Head:
    """What every answer to one request has in common."""

    def __init__(self, kind: str, request_id: str, model: str, created: int) -> None:
        self.kind = kind
        self.model = model
        self.id = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{request_id}"
        self.created = created

    def fields(self, *, chunk: bool) -> dict[str, Any]:
        chat = "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "id": self.id,
            "object": chat if self.kind == "chat" else "text_completion",
            "created": self.created,
            "model": self.model,
        }


def whole_reply(head: Head, body: bytes) -> tuple[int, bytes]:
    """Status and OpenAI body of a reply that is no stream. Raises Unreadable.

    The engine may have written sageLLM's shape (`output_text`) or OpenAI's (`choices`, as sageLLM core 0.5).
    """
    reply = _object(body)
    failure = _failure(reply)
    if failure is not None:
        return failure
    choices = reply.get("choices")
    if isinstance(choices, list):
        if head.kind == "chat":
            reply["object"] = "chat.completion"
            reply["choices"] = [_as_message(choice) for choice in items(choices)]
        return 200, orjson.dumps(reply)
    answer = reply.get("output_text")
    if not isinstance(answer, str):
        raise Unreadable("the reply has neither output_text nor choices")
    choice: dict[str, Any] = {
        "index": 0,
        "logprobs": None,
        "finish_reason": reply.get("finish_reason") or "stop",
    }
    choice |= {"message": {"role": "assistant", "content": answer}} if head.kind == "chat" else {"text": answer}
    usage = usage_of(reply.get("prompt_tokens"), reply.get("output_tokens"), 0)
    return 200, orjson.dumps({**head.fields(chunk=False), "choices": [choice], "usage": usage} | extras(reply))


def vectors_reply(model: str, encoding: object, body: bytes, texts: int | None = None) -> tuple[int, bytes]:
    """Status and OpenAI body of a reply with embeddings.

    Args:
        texts: how many were sent; None: not known.

    Raises Unreadable: it has no vectors, not so many as texts, or some that are no lists of numbers.
    """
    reply = mapping(_json(body))
    failure = _failure(reply)
    if failure is not None:
        return failure
    vectors = items(reply.get("embeddings"))
    if not vectors or len(vectors) != (texts or len(vectors)):
        raise Unreadable(f"{WRONG_VECTORS}: {len(vectors)} for {texts or 'some'} texts")
    if not all(map(_is_vector, vectors)):
        raise Unreadable(f"{WRONG_VECTORS}: not all are lists of numbers")
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _packed(vector) if encoding == "base64" else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = count(reply.get("prompt_tokens")) or 0
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return 200, orjson.dumps({"object": "list", "data": rows, "model": model, "usage": usage})


def error_reply(status: int, body: bytes) -> bytes:
    """The body of an error status: as it is if it is an OpenAI error, else (FastAPI's, text) made one, which keeps
    the raw text in `sagellm.body`."""
    try:
        reply: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        reply = None
    fields = mapping(reply)
    if isinstance(fields.get("error"), dict):
        return body
    raw = body.decode("utf-8", "replace")
    said = fields.get("detail") or fields.get("error") or raw[:500]
    message = said if isinstance(said, str) else orjson.dumps(said).decode()
    return orjson.dumps(openai_error(message, status=status) | {"sagellm": {"body": raw[:_MOST_RAW_CHARACTERS]}})


def openai_error(message: str, *, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(reply: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """Status and OpenAI error of a reply or event that tells of a failure; None if it tells of none.

    The engine's own error is in `sagellm.error`: it says whether another try helps.
    """
    error = reply.get("error")
    if not error and reply.get("finish_reason") != "error":
        return None
    fields = mapping(error)
    code = text(fields.get("code"))
    status = _STATUS_OF_CODE.get(code, 500)
    message = text(fields.get("message")) or text(error) or "the engine failed and did not say why"
    told = openai_error(message, status=status, code=code or None) | {"sagellm": {"error": error}}
    final = fields.get("retryable") is False and status != 400
    return _NO_OTHER_TRY if final else status, told


def usage_of(prompt_tokens: object, output_tokens: object, counted: int) -> dict[str, int]:
    """`counted`: the answer's tokens as we counted them, for engines that send no list of them."""
    prompt, output = count(prompt_tokens) or 0, len(items(output_tokens)) or counted
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def extras(reply: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: reply[name] for name in _EXTRAS if reply.get(name) is not None}
    return {"sagellm": found} if found else {}


def _failure(reply: Mapping[str, Any]) -> tuple[int, bytes] | None:
    failure = error_of(reply)
    return None if failure is None else (failure[0], orjson.dumps(failure[1]))


def _object(body: bytes) -> dict[str, Any]:
    reply = _json(body)
    if not isinstance(reply, dict):
        raise Unreadable("the reply is no JSON object")
    return cast(dict[str, Any], reply)


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"the reply is no JSON: {error}") from error


def _as_message(choice: object) -> object:
    fields = mapping(choice)
    if "message" in fields or "text" not in fields:
        return choice
    answer = fields.pop("text")
    return {**fields, "message": {"role": "assistant", "content": answer}}


def _is_vector(vector: object) -> bool:
    # The types of many numbers at the speed of C; bool, which is an int, is none of them.
    numbers = items(vector)
    return bool(numbers) and {float, int}.issuperset(map(type, numbers))


def _packed(vector: object) -> str:
    """OpenAI's base64: 32-bit floats, little-endian."""
    numbers = cast(list[float], vector)
    try:
        return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode("ascii")
    except OverflowError as error:
        raise Unreadable(f"{WRONG_VECTORS}: a number is too large for 32 bits") from error
