"""The rest of an answer, made to look like the rest of the one stream that the client has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from ..adapters.base import EngineBroken
from ..adapters.loose_json import items, mapping, text
from ..adapters.sse import data_of
from ..adapters.told_error import told_error
from .given_answer import DONE, GivenAnswer


class ContinuedChunks:
    """The chunks of the engine that goes on: one id, no second role, one usage count.

    Args:
        chunks: as they come; raises what they raise.
        opening: comes before them.
        repeated: tokens of the answer that were part of this engine's prompt.
        unsent: the end of the answer, where that was no part of the prompt: what comes of it again is left out.
        silent: nothing but the usage is wanted.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        given: GivenAnswer,
        *,
        repeated: int,
        unsent: str = "",
        opening: bytes = b"",
        silent: bool = False,
    ) -> None:
        self._chunks = chunks
        self._given = given
        self._repeated = repeated
        self._unsent = unsent
        self._opening = opening
        self._silent = silent
        self._heard = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if opening := self._opening:
            self._opening = b""
            return opening
        while True:
            try:
                events = await anext(self._chunks)
            except StopAsyncIteration:
                if not (self._heard or self._silent):
                    raise EngineBroken("the engine that was to go on said nothing") from None
                raise
            if out := b"".join(map(self._rewrite, data_of(events))):
                return out

    def _rewrite(self, data: bytes) -> bytes:
        if not data.strip():
            return b""  # it only kept the connection alive
        self._heard = True
        if data.strip() == DONE:
            return b"data: [DONE]\n\n"
        try:
            chunk = mapping(orjson.loads(data))
        except orjson.JSONDecodeError as error:
            raise EngineBroken(f"the engine that was to go on broke off: an event is no JSON: {error}") from error
        if (told := told_error(data)) is not None:
            # Half an answer is out: a refusal of this engine's is not the request's.
            raise EngineBroken(f"the engine that was to go on failed: {told.message}")
        choices = [mapping(choice) for choice in items(chunk.get("choices"))]
        usage = mapping(chunk.get("usage"))
        if choices and (self._silent or not any(self._says_more(choice) for choice in choices)):
            return b""
        chunk |= self._given.head
        if "choices" in chunk:
            chunk["choices"] = choices
        if usage:
            chunk["usage"] = self._whole(usage)
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _says_more(self, choice: dict[str, Any]) -> bool:
        """Take out of a choice what has been said; whether something is left."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return True
        said = mapping(choice["delta"])
        repeats = self._given.opened and said.pop("role", None) is not None
        if self._unsent and (content := text(said.get("content"))):
            said["content"] = rest = self._without_unsent(content)
            repeats = repeats or not rest
        choice["delta"] = said
        return not repeats or bool(choice.get("finish_reason")) or any(said.values())

    def _without_unsent(self, content: str) -> str:
        while content and content[0] == self._unsent[:1]:
            content, self._unsent = content[1:], self._unsent[1:]
        if content:
            self._unsent = ""
        return content

    def _whole(self, usage: dict[str, Any]) -> dict[str, Any]:
        prompt, made = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        known = self._given.prompt_tokens
        prompt = max(0, prompt - self._repeated) if known is None else known
        made = self._given.tokens + (0 if self._silent else made)
        return {**usage, "prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
