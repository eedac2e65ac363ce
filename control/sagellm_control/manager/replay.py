"""An answer that broke off in the middle, made again on another engine, where that gives the same answer.

The new engine is asked for the whole answer; what the client has already is held back, after a look that it is the
same. Only for requests whose answer does not depend on chance, and that consist of text alone.
"""

from __future__ import annotations

from typing import Any, cast

import orjson
from sagellm_protocol import ErrorCode

from ..engine_access import data_of
from ..wire.states import RequestKind
from .backend import Job, RequestFailed

UNSAFE_FIELDS = ("tools", "functions", "logprobs", "top_logprobs", "response_format", "guided_json", "guided_regex")


class Replay:
    """What has been passed on of an answer."""

    def __init__(self, job: Job) -> None:
        self._safe = job.stream and job.kind is not RequestKind.EMBEDDING and _repeatable(job.body)
        self._passed: list[str] = []
        self._held_back = ""
        """What the client has and the new answer has to repeat."""

    def rewind(self) -> bool:
        """The engine is lost, and another one begins from the start; False: that is not safe."""
        if self._safe:
            self._held_back = "".join(self._passed)
        return self._safe

    def pass_on(self, chunk: bytes) -> bytes:
        """What of a chunk the client does not have yet.

        Raises:
            RequestFailed: it differs from what the client has.
        """
        if not self._safe:
            return chunk
        if not self._held_back:
            self._passed += (_text(_event(data)) for data in data_of(chunk))
            return chunk
        return b"".join(b"data: " + out + b"\n\n" for data in data_of(chunk) if (out := self._rest(data)))

    def _rest(self, data: bytes) -> bytes:
        event = _event(data)
        text = _text(event)
        if not self._held_back:
            self._passed.append(text)
            return data
        if text.startswith(self._held_back):
            rest, self._held_back = text.removeprefix(self._held_back), ""
            self._passed.append(rest)
            return orjson.dumps(_with_text(event, rest)) if rest or _is_last(event) else b""
        if self._held_back.startswith(text) and not _is_last(event):
            self._held_back = self._held_back[len(text) :]
            return b""
        raise RequestFailed(
            ErrorCode.UNAVAILABLE,
            "Stream error: the engine was lost, and another one answers otherwise",
            retryable=True,
        )


def _repeatable(body: bytes) -> bool:
    fields = cast(dict[str, Any], orjson.loads(body))
    certain = fields.get("temperature") == 0 or fields.get("seed") is not None
    return certain and fields.get("n") in (None, 1) and not any(fields.get(name) for name in UNSAFE_FIELDS)


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:  # [DONE], or what the reader will complain about
        return {}
    return cast(dict[str, Any], event) if isinstance(event, dict) else {}


def _choice(event: dict[str, Any]) -> dict[str, Any]:
    choices = event.get("choices")
    return choices[0] if choices else {}


def _text(event: dict[str, Any]) -> str:
    choice = _choice(event)
    return choice.get("text") or (choice.get("delta") or {}).get("content") or ""


def _is_last(event: dict[str, Any]) -> bool:
    return not event or bool(_choice(event).get("finish_reason"))


def _with_text(event: dict[str, Any], text: str) -> dict[str, Any]:
    choice = _choice(event)
    event.pop("sagellm", None)  # the ids of all of its tokens
    if "text" in choice:
        choice["text"] = text
    elif isinstance(choice.get("delta"), dict):
        choice["delta"]["content"] = text
    return event
