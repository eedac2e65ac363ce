"""The text in an OpenAI answer: from server-sent events as they come, or from a whole body."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast


class EventText:
    """Takes the bytes of an event stream, cut anywhere, and gives the text that they add."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, payload: bytes) -> Iterator[str]:
        """The new text, in pieces."""
        *lines, self._partial = (self._partial + payload).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield from text_of(line.removeprefix(b"data:"))


def text_of(body: bytes) -> Iterator[str]:
    """The text of each choice of a chunk or of an answer; nothing for what is no such thing (``[DONE]``)."""
    choices = _get(_parse(body), "choices")
    for choice in cast(list[Any], choices if isinstance(choices, list) else []):
        part = _get(choice, "delta") or _get(choice, "message")
        text = _get(part, "content") or _get(choice, "text")
        if isinstance(text, str):
            yield text


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _get(value: Any, key: str) -> Any:
    return cast(dict[str, Any], value).get(key) if isinstance(value, dict) else None
