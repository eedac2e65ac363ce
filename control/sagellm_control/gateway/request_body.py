"""What the control plane reads of a body, and what it checks. Everything else is the engine's business."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, cast

import orjson

from ..client.continuable import may_continue
from ..client.prompt_prefix import BLOCK_CHARACTERS, DEEPEST_CONTENT, MOST_PARTS, prefix_blocks
from ..wire.request import CHARACTERS_A_TOKEN
from ..wire.states import RequestKind
from .errors import bad_request

MOST_CONTAINERS = 500_000
"""Lists and objects in a body. To make so many takes a second in which nobody else is served; no prompt has them."""
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
    if len(raw) > MOST_CONTAINERS and raw.count(b"[") + raw.count(b"{") > MOST_CONTAINERS:
        raise bad_request(f"The body has more than {MOST_CONTAINERS:,} lists and objects.", None, "invalid_json")
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
            content = _read_messages(body.get("messages"))
        case RequestKind.COMPLETION:
            content = _read_prompt(body.get("prompt"), "prompt")
        case RequestKind.EMBEDDING:
            content = _read_prompt(body.get("input"), "input")
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
        prompt_tokens=max(1, _characters(content, len(raw)) // CHARACTERS_A_TOKEN),
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


def _read_messages(messages: Any) -> list[Any]:
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages must be a list with at least one message.", "messages", _missing(messages))
    contents: list[Any] = []
    for i, message in enumerate(cast("list[Any]", messages)):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad_request(f"messages[{i}] must be an object with a role.", f"messages[{i}].role")
        contents.append(message.get("content"))
    return contents


def _read_prompt(prompt: Any, name: str) -> list[Any]:
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt):
        return [prompt]
    raise bad_request(f"{name} must be a string or a list with at least one item.", name, _missing(prompt))


def _characters(contents: Iterable[Any], of_many: int) -> int:
    """Of all contents together; ``of_many`` where they have more parts than are looked at."""
    sizes = list(islice(chain.from_iterable(map(_sizes, contents)), MOST_PARTS + 1))
    return sum(sizes) if len(sizes) <= MOST_PARTS else of_many


def _sizes(content: Any, depth: int = 0) -> Iterator[int]:
    match content:
        case str():
            yield len(content)
        case int():
            yield CHARACTERS_A_TOKEN  # a prompt may be given as token ids
        case list() if depth <= DEEPEST_CONTENT:
            parts = cast("list[Any]", content)
            if parts and isinstance(parts[0], int):
                yield CHARACTERS_A_TOKEN * len(parts)
                return
            yield 0
            for part in parts:
                yield from _sizes(part, depth + 1)
        case {"text": str(text)}:
            yield len(text)
        case _:
            yield 0


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
