"""OpenAI's answers: chat.completion and text_completion, whole and in chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import orjson

from .batcher import Work
from .generation import Choice, Generation
from .reply import TokenEvents

# Stands where a token will be when a chunk is serialised once to be used as a template.
_MARK = "\x00"
_MARK_JSON = orjson.dumps(_MARK)[1:-1]

_DONE = b"data: [DONE]\n\n"


def _event(fields: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


class _OpenAIReply(ABC):
    """What chat and text completions have in common: ids, usage, the order of the chunks."""

    whole_object = ""
    chunk_object = ""

    def __init__(self, generation: Generation, extra: Mapping[str, object] | None = None) -> None:
        self.generation = generation
        self.extra = extra or {}
        """Further fields of a whole answer."""

    def opening(self) -> bytes:
        return b""

    def events(self) -> list[TokenEvents]:
        templates: list[TokenEvents] = []
        for choice in self.generation.choices:
            first, _ = self._template(choice, first=True)
            prefix, suffix = self._template(choice, first=False)
            templates.append(TokenEvents(first, prefix, suffix, [token.encode() for token in choice.tokens]))
        return templates

    def closing(self, works: Sequence[Work]) -> bytes:
        generation = self.generation
        chunks = [
            _event(self._chunk(self._delta(choice, None, first=not choice.tokens, reason=choice.finish_reason)))
            for choice in generation.choices
        ]
        if generation.include_usage:
            usage: dict[str, object] = {"choices": [], "usage": self._usage()}
            chunks.append(_event(self._envelope(self.chunk_object) | usage))
        return b"".join((*chunks, _DONE))

    def whole(self, works: Sequence[Work]) -> bytes:
        choices = [self._answer(choice, "".join(choice.tokens)) for choice in self.generation.choices]
        return orjson.dumps(
            self._envelope(self.whole_object) | {"choices": choices, "usage": self._usage(), **self.extra},
        )

    @abstractmethod
    def _delta(self, choice: Choice, text: str | None, *, first: bool, reason: str | None) -> dict[str, object]:
        """A choice of a chunk; `first` is the one that opens the answer, `text` None the one that ends it."""

    @abstractmethod
    def _answer(self, choice: Choice, text: str) -> dict[str, object]:
        """A choice of a whole answer."""

    def _template(self, choice: Choice, *, first: bool) -> tuple[bytes, bytes]:
        event = _event(self._chunk(self._delta(choice, _MARK, first=first, reason=None)))
        prefix, _, suffix = event.partition(_MARK_JSON)
        return prefix, suffix

    def _chunk(self, choice: dict[str, object]) -> dict[str, object]:
        chunk = self._envelope(self.chunk_object) | {"choices": [choice]}
        if self.generation.include_usage:
            chunk["usage"] = None
        return chunk

    def _envelope(self, kind: str) -> dict[str, object]:
        generation = self.generation
        return {
            "id": generation.reply_id,
            "object": kind,
            "created": generation.created,
            "model": generation.model,
        }

    def _usage(self) -> dict[str, object]:
        read, made = self.generation.prompt_tokens, self.generation.completion_tokens
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}


class ChatReply(_OpenAIReply):
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _delta(self, choice: Choice, text: str | None, *, first: bool, reason: str | None) -> dict[str, object]:
        delta: dict[str, object] = {"role": "assistant"} if first else {}
        if text is not None:
            delta["content"] = text
        return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def _answer(self, choice: Choice, text: str) -> dict[str, object]:
        message = {"role": "assistant", "content": text}
        return {
            "index": choice.index,
            "message": message,
            "logprobs": None,
            "finish_reason": choice.finish_reason,
        }


class TextReply(_OpenAIReply):
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def _delta(self, choice: Choice, text: str | None, *, first: bool, reason: str | None) -> dict[str, object]:
        return {"index": choice.index, "text": text or "", "logprobs": None, "finish_reason": reason}

    def _answer(self, choice: Choice, text: str) -> dict[str, object]:
        return self._delta(choice, text, first=True, reason=choice.finish_reason)
