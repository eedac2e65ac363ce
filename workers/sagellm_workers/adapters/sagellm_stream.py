"""sageLLM's stream events (start, delta, end) as OpenAI's chunks, one by one as they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson

from .base import EngineBroken
from .chunks import broke_off
from .loose_json import items, mapping, text
from .sagellm_reply import DONE, Head, Unreadable, error_of, extras, usage_of
from .sse import data_of

log = logging.getLogger(__name__)

DRAIN_S = 0.5  # after the end event: how long to wait for the end of the body, so that the connection can be kept


class StreamTranslator:
    """Turns events into the bytes of OpenAI chunks. `done` after the end event; later ones are dropped.

    Args:
        include_usage: OpenAI's option: the last chunk has the usage.
        each_usage: vLLM's option `continuous_usage_stats`: every chunk has it, and here the token ids too.
    """

    def __init__(self, head: Head, *, include_usage: bool, each_usage: bool = False) -> None:
        self._head = head
        self._chat = head.kind == "chat"
        self._include_usage = include_usage
        self._each_usage = each_usage
        self._opened = False
        self._prompt_tokens: object = None
        self._sent: list[str] = []
        self._tokens = 0
        self._skipped = False
        self.done = False

    def feed(self, event: Mapping[str, Any]) -> bytes:
        """The chunks for one event, or b"" for one that says nothing to OpenAI's clients.

        Raises Unreadable if a piece of the answer may be lost.
        """
        if self.done:
            return b""
        match event.get("event"):
            case "start":
                self._prompt_tokens = event.get("prompt_tokens")
                return self._opening()
            case "delta":
                # Behind a hole nothing is sent: the end event tells it all, or another engine goes on before the hole.
                return b"" if self._skipped else self._delta(event.get("content"), event.get("content_tokens"))
            case "end":
                return self._ending(event)
            case "error":  # sageLLM core's, when its engine raises in mid-stream
                return self._failure({"error": event.get("error") or "unknown"})
            case _:
                return b""

    def skip(self) -> None:
        """An event could not be read, and may have been a piece of the answer."""
        self._skipped = True

    def _delta(self, content: object, tokens: object) -> bytes:
        if not isinstance(content, str) or not content:
            return b""
        opening = self._opening()
        self._tokens += len(items(tokens)) or 1
        self._sent.append(content)
        more = {"sagellm": {"content_tokens": tokens}} if self._each_usage and tokens else None
        return opening + self._chunk({"content": content} if self._chat else content, more=more)

    def _ending(self, event: Mapping[str, Any]) -> bytes:
        failed = self._failure(event)
        if failed:
            return failed
        # `content` repeats the whole answer. What the deltas left out of it (maybe all) comes now.
        content, sent = text(event.get("content")), "".join(self._sent)
        whole = bool(content) and content.startswith(sent)
        if self._skipped and not whole:
            raise Unreadable("an event is no JSON, and the end event does not repeat the whole answer")
        out = self._delta(content.removeprefix(sent), None) if whole else b""
        out += self._opening()
        out += self._chunk({} if self._chat else "", event.get("finish_reason") or "stop", extras(event))
        if self._include_usage:
            prompt_tokens = event.get("prompt_tokens") or self._prompt_tokens
            usage = usage_of(prompt_tokens, event.get("output_tokens"), self._tokens)
            out += _line({**self._head.fields(chunk=True), "choices": [], "usage": usage})
        self.done = True
        return out + DONE

    def _failure(self, event: Mapping[str, Any]) -> bytes:
        failure = error_of(event)
        if failure is None:
            return b""
        self.done = True
        return _line(failure[1]) + DONE

    def _opening(self) -> bytes:
        if self._opened or not self._chat:
            return b""
        self._opened = True
        return self._chunk({"role": "assistant", "content": ""})

    def _chunk(
        self, piece: dict[str, str] | str, finish_reason: object = None, more: dict[str, Any] | None = None
    ) -> bytes:
        choice = {
            "index": 0,
            "delta" if self._chat else "text": piece,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        usage = {"usage": usage_of(self._prompt_tokens, None, self._tokens)} if self._each_usage else {}
        return _line({**self._head.fields(chunk=True), "choices": [choice], **usage, **(more or {})})


class TranslatedChunks:
    """The chunks of a reply, translated. Raises EngineBroken if the stream ends without its end event.

    An event that is no JSON is logged and skipped, as programs know it; see `StreamTranslator` for what it said.
    """

    def __init__(self, url: str, events: AsyncIterator[bytes], translator: StreamTranslator) -> None:
        self._url = url
        self._events = events
        self._translator = translator

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._translator.done:
            await self._drain()
            raise StopAsyncIteration
        async for events in self._events:
            out = b"".join(self._translate(data) for data in data_of(events))
            if out:
                return out
        raise broke_off(self._url, "the stream ended without an end event")

    def _translate(self, data: bytes) -> bytes:
        if data.strip() == b"[DONE]":
            return b""
        try:
            event = orjson.loads(data)
            return self._translator.feed(mapping(event))
        except orjson.JSONDecodeError:
            log.warning("engine %s: an event that is no JSON is skipped: %.200r", self._url, data)
            self._translator.skip()
            return b""
        except Unreadable as error:
            raise broke_off(self._url, str(error)) from error

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(DRAIN_S):
                async for _ in self._events:
                    pass
        except (TimeoutError, EngineBroken):
            pass  # the answer is complete; only the connection is lost


def _line(fields: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"
