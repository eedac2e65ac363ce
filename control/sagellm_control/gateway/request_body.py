"""What the control plane reads of a body, and what it checks. Everything else is the engine's business."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, cast

import orjson

from ..client.continuable import may_continue
from ..client.prompt_prefix import BLOCK_CHARACTERS, DEEPEST_CONTENT, prefix_blocks
from ..wire.states import RequestKind
from .errors import bad_request

CHARACTERS_A_TOKEN = 4
"""A coarse estimate; engines count for themselves."""
LONGEST_MODEL = 256
LONGEST_TENANT = 64


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class RequestBody:
    """The few facts that scheduling needs."""

    model: str
    stream: bool
    user: str
    prompt_tokens: int
    """Estimate."""
    max_tokens: int
    """0: not given."""
    continuable: bool
    """Whether another engine may go on with its stream."""
    prefix: tuple[str, ...] = ()
    """Chained hashes of the prompt's blocks."""


def read_body(raw: bytes, kind: RequestKind) -> RequestBody:
    """Read and check a body.

    Raises:
        ApiError: 400, names the field and what is allowed.
    """
    try:
        parsed: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The body is not valid JSON: {_why_not(raw, error)}.", None, "invalid_json") from None
    if not isinstance(parsed, dict):
        raise bad_request("The body must be a JSON object.", None, "invalid_json")
    body = cast("dict[str, Any]", parsed)
    model = body.get("model")
    if not isinstance(model, str) or not 1 <= len(model) <= LONGEST_MODEL:
        raise bad_request(
            f"model must be the name of a model, of 1 to {LONGEST_MODEL} characters.",
            "model",
            _missing(model),
        )
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise bad_request("stream must be true or false.", "stream")
    match kind:
        case RequestKind.CHAT:
            characters = _read_messages(body.get("messages"))
        case RequestKind.COMPLETION:
            characters = _read_prompt(body.get("prompt"), "prompt")
        case RequestKind.EMBEDDING:
            characters = _read_prompt(body.get("input"), "input")
        case RequestKind.RESERVATION | RequestKind.VECTOR_RESERVATION:
            raise bad_request("A reservation is made by a program, not over HTTP.", "model")
    user = body.get("user")
    if user is not None and not isinstance(user, str):
        raise bad_request("user must be a string.", "user")
    streams = bool(stream) and kind is not RequestKind.EMBEDDING
    return RequestBody(
        model=model,
        stream=streams,
        user=tenant_name(user or ""),
        prompt_tokens=max(1, characters // CHARACTERS_A_TOKEN),
        max_tokens=_count(body, "max_completion_tokens") or _count(body, "max_tokens"),
        continuable=streams and may_continue(kind, body),
        # A prompt of less than a block has none.
        prefix=prefix_blocks(model, body) if len(raw) > BLOCK_CHARACTERS else (),
    )


def tenant_name(user: str) -> str:
    """A name that fits a record; a longer one is replaced by its hash."""
    if len(user) <= LONGEST_TENANT and user.isprintable():
        return user
    return hashlib.blake2b(user.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _read_messages(messages: Any) -> int:
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages must be a list with at least one message.", "messages", _missing(messages))
    characters = 0
    for i, message in enumerate(cast("list[Any]", messages)):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad_request(f"messages[{i}] must be an object with a role.", f"messages[{i}].role")
        characters += _characters(message.get("content"))
    return characters


def _read_prompt(prompt: Any, name: str) -> int:
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt):
        return _characters(cast("str | list[Any]", prompt))
    raise bad_request(f"{name} must be a string or a list with at least one item.", name, _missing(prompt))


def _characters(content: Any, depth: int = 0) -> int:
    if depth > DEEPEST_CONTENT:
        return 0
    match content:
        case str():
            return len(content)
        case int():
            return CHARACTERS_A_TOKEN  # a prompt may be given as token ids
        case list():
            return sum(_characters(part, depth + 1) for part in cast("list[Any]", content))
        case {"text": str(text)}:
            return len(text)
        case _:
            return 0


def _count(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value >= 2**31:
        raise bad_request(f"{name} must be a whole number below {2**31}.", name)
    # llama.cpp takes -1 for "no limit", and vLLM 0 for "only echo": the engine's business.
    return max(0, value)


def _why_not(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        return f"its byte {wrong.start} is not UTF-8"
    return str(error)


def _missing(value: object) -> str:
    return "missing_required_parameter" if value is None else "invalid_value"
