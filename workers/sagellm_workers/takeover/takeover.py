"""One answer to be gone on with, on one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import orjson

from ..adapters.loose_json import mapping
from .continued_body import CannotContinue, continuable, continued, read_fields, shortest, tokens_left
from .continued_stream import ContinuedChunks
from .given_answer import GivenAnswer


class Takeover:
    """What is to be asked of the engine, and what is to be made of its answer.

    Args:
        engine_kind: see ``EngineRow.kind``.
        call_kind: ``chat`` or ``completion``.
        payloads: what earlier attempts have logged.
        body: the client's.

    Raises:
        CannotContinue: this engine, or none, can go on.
    """

    def __init__(self, engine_kind: str, call_kind: str, payloads: Iterable[bytes], body: bytes) -> None:
        self.given = given = GivenAnswer.read(call_kind, payloads)
        if given.obstacle:
            raise CannotContinue(given.obstacle, anywhere=True)
        self._kind = call_kind
        fields = read_fields(body)
        spent = given.text != "" and tokens_left(engine_kind, fields, given.tokens) == 0
        self._complete = spent or given.finish_reason != "" or given.done
        wants_usage = mapping(fields.get("stream_options")).get("include_usage") is True
        self._wants_usage = wants_usage and not given.usage_given and not given.done
        sent = continuable(engine_kind, call_kind, given.text)
        self._unsent = given.text[len(sent) :]
        self._repeated = given.tokens if sent and not self._complete else 0
        self.body: bytes | None = None
        """What to send; None: nothing is left to ask for."""
        if not self._complete:
            self.body = continued(engine_kind, call_kind, fields, sent, given.tokens) if sent else body
        elif self._wants_usage:
            # Prompt tokens are the engine's to count; it costs a prefill, which its cache may spare.
            self.body = shortest(fields)

    def _ending(self) -> bytes:
        """The end of the text, if the engine was lost right before it."""
        if not self._complete or self.given.finish_reason or self.given.done:
            return b""
        piece = {"delta": {}} if self._kind == "chat" else {"text": ""}
        choice = {"index": 0, **piece, "logprobs": None, "finish_reason": "length"}
        kind = "chat.completion.chunk" if self._kind == "chat" else "text_completion"
        return b"data: " + orjson.dumps({"object": kind, **self.given.head, "choices": [choice]}) + b"\n\n"

    def closing(self) -> bytes:
        """Where nothing is asked of an engine: what is missing of the stream."""
        return self._ending() + (b"" if self.given.done else b"data: [DONE]\n\n")

    def chunks(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The engine's chunks as the rest of the stream."""
        return ContinuedChunks(
            chunks,
            self.given,
            repeated=self._repeated,
            unsent=self._unsent,
            opening=self._ending(),
            silent=self._complete,
        )
