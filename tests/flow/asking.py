"""The requests that the tests send, and how the answers are read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from sagellm_control.simulated_engine import answer_tokens, chat_prompt

from .in_process import InProcessSystem

MODEL = "simulated-1"
CHAT_PATH = "/v1/chat/completions"


def chat(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat request to the simulated engine."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def chat_bytes(text: str = "hello", **fields: Any) -> bytes:
    return orjson.dumps(chat(text, **fields))


def post_chat(system: InProcessSystem, headers: dict[str, str], gateway: int = 0, **fields: Any) -> Any:
    """Post a short chat with these headers to one of the gateways; to be used with ``async with``."""
    url = system.gateways[gateway] + CHAT_PATH
    return system.session.post(url, json=chat(**{"max_tokens": 4, **fields}), headers=headers)


def expected_text(text: str, tokens: int) -> str:
    """What the simulated engine answers to ``chat(text, max_tokens=tokens)``."""
    return "".join(expected_tokens(text, tokens))


def expected_tokens(text: str, tokens: int) -> list[str]:
    return answer_tokens(chat_prompt([{"role": "user", "content": text}]), tokens)


async def pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The parts between the blank lines of an event stream, as they come: ``data: …`` or ``: comment``."""
    held = b""
    async for piece in response.content.iter_any():
        held += piece
        *whole, held = held.split(b"\n\n")
        for part in whole:
            yield part
    assert held == b"", "the stream ends inside an event"


async def data(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """The decoded data of the events, ``[DONE]`` as it is; comments are left out."""
    async for part in pieces(response):
        if part.startswith(b"data: "):
            payload = part.removeprefix(b"data: ")
            yield "[DONE]" if payload == b"[DONE]" else orjson.loads(payload)


def delta_of(chunk: Any) -> str:
    """The text that a chunk of a chat adds; "" for any other event."""
    if not isinstance(chunk, dict) or not chunk.get("choices"):
        return ""
    return chunk["choices"][0].get("delta", {}).get("content") or ""


async def error_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The ``error`` object of a refusal, whose form is checked."""
    body = orjson.loads(await response.read())
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error
