"""Hashes of the beginning of a prompt, block by block: equal hashes, equal prompts up to there.

What is hashed is what an engine's template renders in this order: the tools, then the messages one after another. So
two turns of one conversation share all blocks of the first, whatever else their bodies say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import orjson

BLOCK_CHARACTERS = 2048
"""512 tokens, roughly: the size of the blocks in the Mooncake traces."""
MOST_BLOCKS = 64
"""Of one prompt: what is shared beyond 32,000 tokens is on the engine that has the beginning."""
DEEPEST_CONTENT = 3
"""A list of prompts, each a list of tokens, is the deepest that any API has."""
MOST_PARTS = 20_000
"""Of one prompt that are looked at: a body of many small lists has millions, and nobody else is served meanwhile."""
HASH_BYTES = 6
"""48 bits: among a million blocks two that differ are taken for equal once in 500 runs, and then cost a prefill."""


def prefix_blocks(model: str, body: dict[str, Any]) -> tuple[str, ...]:
    """The chained hashes of the prompt's whole blocks, the first one first.

    Args:
        model: as it was asked for; engines cache an adapter's prompts apart.
        body: a checked OpenAI body.
    """
    text = _beginning(body)
    if len(text) < BLOCK_CHARACTERS:
        return ()
    hashes: list[str] = []
    last = model.encode()
    for at in range(0, len(text) - BLOCK_CHARACTERS + 1, BLOCK_CHARACTERS):
        block = text[at : at + BLOCK_CHARACTERS].encode(errors="surrogatepass")
        last = hashlib.blake2b(last + block, digest_size=HASH_BYTES, person=b"prefix").digest()
        hashes.append(last.hex())
    return tuple(hashes)


def _beginning(body: dict[str, Any]) -> str:
    pieces: list[str] = []
    left = MOST_BLOCKS * BLOCK_CHARACTERS
    for piece in islice(_pieces(body), MOST_PARTS):
        pieces.append(piece[:left])
        left -= len(pieces[-1])
        if left <= 0:
            break
    return "".join(pieces)


def _pieces(body: dict[str, Any]) -> Iterator[str]:
    yield from _dumped(body.get("tools"))
    messages = body.get("messages")  # only those of a chat have been checked
    for message in cast("list[Any]", messages) if isinstance(messages, list) else ():
        if isinstance(message, dict):
            fields = cast("dict[str, Any]", message)
            yield f"\n{fields.get('role')}:"
            yield from _texts(fields.get("content"))
            yield from _dumped(fields.get("tool_calls"))
    for name in ("prompt", "input"):
        yield from _texts(body.get(name))


def _texts(content: Any, depth: int = 0) -> Iterator[str]:
    # Each part gives something, if it is nothing: so their number can be bounded.
    match content:
        case str():
            yield content
        case int():
            yield f"{content} "  # a prompt may be given as token ids
        case list() if depth <= DEEPEST_CONTENT:
            yield ""
            for part in cast("list[Any]", content):
                yield from _texts(part, depth + 1)
        case {"text": str(text)}:
            yield text
        case {"image_url": {"url": str(url)}}:
            yield url[:BLOCK_CHARACTERS]  # an image in the text would be megabytes
        case _:
            yield ""


def _dumped(value: Any) -> Iterator[str]:
    if value:
        try:
            yield orjson.dumps(value).decode()
        except TypeError:
            return  # nested deeper than anybody writes: the engine will say what it thinks of it
