"""Engines that speak sageLLM's wire: what they say reaches the caller, and what the caller says reaches them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from sagellm_protocol import Response, StreamEventEnd

from .conftest import TELLS_ALL, Plane, StartEcho, StartPlane, a_request, prompt_tokens

ANSWER = {"output_text": "Hi", "output_tokens": [1], "finish_reason": "stop", "metrics": {}}


class Asked:
    """A manager and its one engine."""

    def __init__(self, plane: Plane, engine: Any) -> None:
        self.manager = plane.manager
        self.engine = engine

    def answers(self, reply: object, **more: Any) -> None:
        self.engine.answer(orjson.dumps(reply), **more)

    async def ask(self, *, stream: bool = False, **fields: Any) -> Response | StreamEventEnd:
        """Run a request; the response, or the end of the stream."""
        request = a_request(model="echo-1", **fields)
        if not stream:
            return await self.manager.execute_request(request)
        *_, end = [event async for event in self.manager.stream_request(request)]
        assert isinstance(end, StreamEventEnd)
        return end

    @property
    def sent(self) -> Any:
        """The body that reached the engine last."""
        return orjson.loads(self.engine.reached[-1].body)


@pytest.fixture
async def asked(start_plane: StartPlane, start_echo: StartEcho) -> Asked:
    plane, engine = await start_plane(), await start_echo()
    plane.register("e1", engine, model="echo-1", wire="sagellm")
    plane.register("v1", engine, model="vectors", engine_kind="embedding", wire="sagellm")
    await plane.ready("e1", "v1")
    asked = Asked(plane, engine)
    asked.answers(ANSWER)
    return asked


@pytest.mark.parametrize(
    "reply",
    [
        *({"embeddings": [[1.0]]}, {"embeddings": [[1.0]] * 3}, {"embeddings": []}, {"embeddings": None}),
        *({"embeddings": [[1.0], None]}, {"output_text": "x"}, {}, []),
    ],
    ids=str,
)
async def test_vectors_that_are_not_those_of_the_texts(asked: Asked, reply: object) -> None:
    asked.answers(reply)
    with pytest.raises(ValueError, match=r"^Invalid embeddings response: expected 2 vectors$"):
        await asked.manager.get_embeddings(["a", "b"], "vectors")
    assert len(asked.engine.reached) > 1, "no answer, so another try"


TOLD = {"code": "kv_transfer_failed", "message": "kv lost"}
UNKNOWN = {"code": "tired", "message": "no more"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("error", "code", "message", "retryable", "tried_again"),
    [
        (TOLD | {"retryable": False}, "kv_transfer_failed", "kv lost", False, False),
        (TOLD | {"retryable": True}, "kv_transfer_failed", "kv lost", True, True),
        (TOLD, "kv_transfer_failed", "kv lost", True, True),
        ({"code": "invalid_argument", "message": "no"}, "invalid_argument", "no", False, False),
        (UNKNOWN | {"retryable": False}, "unavailable", "no more", False, False),
        (UNKNOWN, "unavailable", "no more", True, True),
        ("out of memory", "unavailable", "out of memory", True, True),
    ],
    ids=str,
)
async def test_the_error_in_a_reply_reaches_the_caller(
    asked: Asked, stream: bool, error: object, code: str, message: str, retryable: bool, tried_again: bool
) -> None:
    asked.answers({**ANSWER, "finish_reason": "error", "error": error})
    told = (await asked.ask(stream=stream)).error
    assert told is not None
    assert (told.code, told.message, told.retryable) == (code, message, retryable)
    assert (len(asked.engine.reached) > 1) == tried_again


@pytest.mark.parametrize("retryable", [True, False])
async def test_the_error_in_a_stream_reaches_the_caller(asked: Asked, retryable: bool) -> None:
    end = {"event": "end", **ANSWER, "finish_reason": "error", "error": TOLD | {"retryable": retryable}}
    asked.engine.stream([b"data: " + orjson.dumps(end) + b"\n\n"])
    told = (await asked.ask(stream=True)).error
    assert told is not None
    assert (told.code, told.message, told.retryable) == ("kv_transfer_failed", "kv lost", retryable)


@pytest.mark.parametrize(
    "body", ["bad thing", '{"detail": [{"loc": ["a"], "msg": "x"}]}', '{"error": {"message": "x"}}'], ids=str
)
async def test_the_body_of_an_error_status_is_in_the_message(asked: Asked, body: str) -> None:
    asked.engine.answer(body.encode(), status=400)
    told = (await asked.ask()).error
    assert told is not None
    assert (told.code, told.message, told.retryable) == ("invalid_argument", f"Request error: 400 - {body}", False)


@pytest.mark.parametrize(
    ("metadata", "sent"),
    [
        (None, None),
        ({"note": "n"}, {"note": "n"}),
        ({"priority": "HIGH", "note": "n"}, {"priority": "HIGH", "note": "n"}),
        ({"priority": 0}, {"priority": 0}),
    ],
    ids=str,
)
async def test_metadata_reaches_the_engine_as_it_is(asked: Asked, metadata: Any, sent: Any) -> None:
    assert (await asked.ask(metadata=metadata)).error is None
    assert asked.sent.get("metadata") == sent


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("said", [{}, {"prompt_tokens": None}, {"prompt_tokens": 7}], ids=str)
async def test_the_tokens_of_a_prompt_that_the_engine_does_not_count(
    asked: Asked, stream: bool, said: dict[str, Any]
) -> None:
    asked.answers(ANSWER | said)
    if stream:
        asked.engine.stream([b"data: " + orjson.dumps({"event": "end", "content": "Hi", **ANSWER, **said}) + b"\n\n"])
    answer = await asked.ask(stream=stream)
    assert answer.error is None
    assert prompt_tokens(answer) == (said.get("prompt_tokens") if TELLS_ALL else None)


async def test_an_event_that_is_no_json_costs_nothing(asked: Asked) -> None:
    first = orjson.dumps({"event": "delta", "content": "a", "content_tokens": [1]})
    last = orjson.dumps({"event": "end", "content": "abc", "output_tokens": [1, 2, 3], "finish_reason": "stop"})
    asked.engine.stream([b"data: " + data + b"\n\n" for data in (first, b"{oops", last)])
    end = await asked.ask(stream=True)
    assert isinstance(end, StreamEventEnd)
    assert (end.content, end.output_tokens, end.error) == ("abc", [1, 2, 3], None)
    assert len(asked.engine.reached) == 1
