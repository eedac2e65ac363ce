"""What passes for an answer, and what is garbage whatever status it came with."""

from __future__ import annotations

import orjson
import pytest

from sagellm_control.wire.states import RequestKind
from sagellm_workers.adapters.base import EngineBroken, EngineFailed
from sagellm_workers.attempts.answer_form import MOST_PARSED_BYTES, StreamForm, check_body

TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'

STREAMS = {
    "tokens": [TOKEN, TOKEN * 3, b"data: [DONE]\n\n"],
    "one piece": [TOKEN * 2 + b"data: [DONE]\n\n"],
    "keep-alives first": [b": ping\n\n", b"\n\n", b"data:\n\n", b"data: \n\n", TOKEN],
    "no space": [TOKEN.replace(b"data: ", b"data:")] * 2,
    "lines of the other kind": [TOKEN.replace(b"\n", b"\r\n")] * 2 + [b"data: [DONE]\r\n\r\n"],
    "byte order mark": [b"\xef\xbb\xbf" + TOKEN, TOKEN],
    "all fields": [b'event: progress\nid: 7\nretry: 100\ndata: {"percent": 3}\n\n'] * 2,
    "two lines": [TOKEN, b'data: {"two":\ndata: "lines"}\n\n'],
    "a field of one engine's": [TOKEN, b'error: {"code":500}\n\n', b'x-took: {"s":1}\n\n'],
    "no object": [b"data: 1\n\n", b'data: "x"\n\n', b"data: [1]\n\n"],
    "a refusal first": [b'data: {"error":{"message":"too long","code":400}}\n\n'],
    "a refusal later": [TOKEN, b'data: {"error":{"message":"too long","code":"422"}}\n\n'],
    "no error": [b'data: {"error":null,"choices":[]}\n\n', b'data: {"choices":[{"error":{"message":"x"}}]}\n\n'],
    "only the end": [b"data: [DONE]\n\n"],
    "what Python writes": [b'data: {"logprob": -Infinity, "top": NaN}\n\n', b'data: {"text": "\\ud83d"}\n\n'],
    "braces in a text": [TOKEN, b'data: {"text":"}\\n\\ndata: {"}\n\n'],
}


@pytest.mark.parametrize("pieces", STREAMS.values(), ids=STREAMS.keys())
def test_a_stream(pieces: list[bytes]) -> None:
    form = StreamForm("e")
    for piece in pieces:
        assert form.check(piece) == piece
    assert form.failure is None
    form.check_end(gone_on=False)


ERRORS = {
    "vLLM's": b'{"error":{"message":"no memory","type":"InternalServerError","param":null,"code":500}}',
    "without a code": b'{"error":{"message":"no memory"}}',
    "only text": b'{"error":"no memory"}',
    "busy": b'{"error":{"message":"no memory","code":429}}',
    "sageLLM's": b'{"error":{"message":"no memory","code":"unavailable"},"sagellm":{"error":{"code":"unavailable"}}}',
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("before", [b"", TOKEN, TOKEN.replace(b"\n", b"\r\n") * 2])
@pytest.mark.parametrize("behind", [b"", b"data: [DONE]\n\n", TOKEN])
def test_an_engine_that_says_it_has_failed(error: bytes, before: bytes, behind: bytes) -> None:
    form = StreamForm("e")
    assert form.check(before + b"data: " + error + b"\n\n" + behind) == before
    assert str(form.failure) == "engine e failed: no memory"
    assert form.failure is not None
    assert form.failure.said == error


@pytest.mark.parametrize("told", [{"code": "invalid_argument"}, {"code": "internal", "retryable": False}])
def test_what_no_other_engine_of_sagellms_would_take_is_a_refusal(told: dict[str, object]) -> None:
    said = orjson.dumps({"error": {"message": "no", "code": told["code"]}, "sagellm": {"error": told}})
    form = StreamForm("e")
    assert form.check(b"data: " + said + b"\n\n") == b"data: " + said + b"\n\n"
    assert form.failure is None


GARBAGE = {
    "half an event": b'data: {"id": "x", "choi\n\n',
    "half an event behind a whole one": TOKEN + b'data: {"id": "x", "choi\n\n',
    "half an event before a whole one": b'data: {"id": "x", "choi\n\n' + TOKEN,
    "a page": b"<html>\n<body>busy</body>\n\n",
    "a page as data": b"data: <html>busy\n\n",
    "a traceback": b'Traceback (most recent call last):\n  File "x"\n\n',
    "no text": b"data: \xff\xfe\n\n",
    "an object without its name": b'{"error":"busy"}\n\n',
    "words": b'data: {"a":1}\nno field of an event stream\n\n',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("before", [[], [b": ping\n\n"], [TOKEN]], ids=["first", "first data", "later"])
def test_garbage_in_a_stream(garbage: bytes, before: list[bytes]) -> None:
    form = StreamForm("e")
    for piece in before:
        form.check(piece)
    with pytest.raises(EngineBroken, match="engine e streams what is no JSON"):
        form.check(garbage)


@pytest.mark.parametrize("behind", [b"", TOKEN, b"data: [DONE]\n\n"])
def test_the_first_data_is_parsed_whatever_it_looks_like(behind: bytes) -> None:
    with pytest.raises(EngineBroken):
        StreamForm("e").check(b"data: {no JSON}\n\n" + behind)


@pytest.mark.parametrize("pieces", [[], [b": ping\n\n"], [b"data:\n\n"]])
def test_a_stream_without_an_event(pieces: list[bytes]) -> None:
    form = StreamForm("e")
    for piece in pieces:
        form.check(piece)
    form.check_end(gone_on=True)
    with pytest.raises(EngineBroken, match="without an event"):
        form.check_end(gone_on=False)


LONG = b" " * MOST_PARSED_BYTES
CUT = [b"<" + LONG, b"{" + LONG, b"[" + LONG + b"]"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": []}',
        b' \r\n{"a":1}\n',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":NaN}',
        b'{"error":{"message":"x","code":400}}',
        b'{"error":{"message":"x"},"choices":[{}]}',
        b'{"error":null}',
        b"\n{" + LONG + b"}\n",
    ],
)
@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain", "application/octet-stream"])
def test_a_body(body: bytes, content_type: str) -> None:
    check_body(body, "e", RequestKind.CHAT, content_type)


@pytest.mark.parametrize(
    "body",
    [b"", b"\n", b"<html>busy", b"[]", b"[{}]", b"null", b'"x"', b"{", b'{"a":1}{', b"\xff\xfe", b"[" * 100_000, *CUT],
    ids=lambda body: body[:8],
)
def test_a_body_that_is_no_answer(body: bytes) -> None:
    for kind in (RequestKind.CHAT, RequestKind.COMPLETION, RequestKind.EMBEDDING):
        with pytest.raises(EngineBroken, match="engine e answered with what is no JSON object"):
            check_body(body, "e", kind, "application/json")


@pytest.mark.parametrize("error", [b'{"message":"no more memory"}', b'{"message":"no more memory","code":500}'])
def test_a_body_that_says_the_engine_has_failed(error: bytes) -> None:
    body = b'{"object":"error","error":' + error + b"}"
    with pytest.raises(EngineFailed, match="engine e failed: no more memory") as failed:
        check_body(body, "e", RequestKind.CHAT, "application/json")
    assert failed.value.said == body


def test_vectors_may_be_plain_numbers() -> None:
    check_body(b"\x00\x01", "e", RequestKind.EMBEDDING, "application/octet-stream")
    for kind, content_type in ((RequestKind.CHAT, "application/octet-stream"), (RequestKind.EMBEDDING, "text/html")):
        with pytest.raises(EngineBroken):
            check_body(b"\x00\x01", "e", kind, content_type)
