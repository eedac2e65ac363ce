"""Counts the tokens of an answer as it passes by; what the engine says about it wins over what was counted."""

from __future__ import annotations

import re

_COMPLETION = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,9})\b')
_PROMPT = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,9})\b')
_CACHED = re.compile(rb'"cached_tokens"\s*:\s*(\d{1,9})\b')
_TAIL_BYTES = 4096
"""Of a whole body: its usage stands at the end, behind what may be megabytes of embeddings."""


class AnswerLength:
    """One answer."""

    def __init__(self) -> None:
        self.counted = 0
        """Events with data, but the closing one: of a stream about one a token."""
        self._usage = b""

    def event(self, chunk: bytes) -> int:
        """One or more whole server-sent events passed by; how many of them count as tokens."""
        if b'"completion_tokens"' in chunk:
            self._usage = chunk
        number = chunk.count(b"\ndata:") + chunk.startswith(b"data:") - chunk.count(b"data: [DONE]")
        if b'"choices":[]' in chunk:
            number -= 1  # the chunk that brings the usage
        number = max(0, number)
        self.counted += number
        return number

    def body(self, body: bytes) -> None:
        """The whole of an answer that is no stream."""
        self._usage = body[-_TAIL_BYTES:]

    @property
    def output_tokens(self) -> int | None:
        """As the engine says, else as counted; None: neither is known."""
        if (said := _last(_COMPLETION, self._usage)) is not None:
            return said
        # The last event of a stream only says why it ended, and the first often only who speaks.
        return max(1, self.counted - 1) if self.counted else None

    @property
    def uncached_tokens(self) -> int | None:
        """Prompt tokens that the engine had to compute, as it says."""
        prompt = _last(_PROMPT, self._usage)
        return None if prompt is None else max(0, prompt - (_last(_CACHED, self._usage) or 0))


def _last(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.findall(text)
    return int(found[-1]) if found else None
