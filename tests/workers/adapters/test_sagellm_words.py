"""sageLLM's own wire and OpenAI's, in each other's words: requests, replies, errors."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from typing import Any

import orjson
import pytest

from sagellm_control.wire.trace_context import NO_TRACE
from sagellm_workers.adapters.sagellm_reply import (
    Head,
    Unreadable,
    error_reply,
    vectors_reply,
    whole_reply,
)
from sagellm_workers.adapters.sagellm_request import Untranslatable, read_fields, to_sagellm

from ..conftest import CHAT

METRICS = {"ttft_ms": 1.0, "throughput_tps": 2.0, "peak_mem_mb": 0, "error_rate": 0.0}


def sent(fields: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return orjson.loads(to_sagellm(replace(CHAT, **changes), fields))


def test_a_chat() -> None:
    fields = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]},
            {"role": "assistant", "content": None},
            {"role": "tool", "content": "42"},
        ],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 1,
        "metadata": {"tenant": "a"},
    }
    assert sent(fields) == {
        **fields,
        "request_id": "req-1",
        "trace_id": "trace-1",
        "prompt": "System: Be brief.\nUser: Hi!\nAssistant: \ntool: 42\nAssistant:",
        "stream": True,
        "metadata": {"tenant": "a"},
    }


@pytest.mark.parametrize("prompt", ["Once", ["Once"]])
def test_a_completion(prompt: object) -> None:
    fields = sent({"prompt": prompt}, kind="completion", stream=False, trace=NO_TRACE, priority=0)
    assert fields == {
        "request_id": "req-1",
        "trace_id": "req-1",
        "model": "",
        "prompt": "Once",
        "max_tokens": 512,
        "stream": False,
        "metadata": {"priority": 0},
    }


@pytest.mark.parametrize(
    ("metadata", "priority", "told"),
    [
        (None, 2, None),
        (None, 1, {"priority": 1}),
        ({"note": "n"}, 4, {"priority": 4, "note": "n"}),
        ({"priority": "LOW"}, 1, {"priority": "LOW"}),
        ("a note", 1, "a note"),
    ],
)
def test_an_engine_is_told_the_class_unless_the_client_has_told_it(
    metadata: object, priority: int, told: object
) -> None:
    fields = {"prompt": "Once", **({} if metadata is None else {"metadata": metadata})}
    assert sent(fields, kind="completion", priority=priority).get("metadata") == told


def test_the_newer_name_of_the_limit() -> None:
    assert sent({"prompt": "", "max_completion_tokens": 9}, kind="completion")["max_tokens"] == 9


@pytest.mark.parametrize(("value", "texts"), [("a", ["a"]), (["a", "b"], ["a", "b"])])
def test_embeddings(value: object, texts: list[str]) -> None:
    fields = sent({"model": "m", "input": value, "dimensions": 8}, kind="embedding", stream=False)
    assert fields == {
        "request_id": "req-1",
        "trace_id": "trace-1",
        "model": "m",
        "texts": texts,
        "dimensions": 8,
    }


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        ("chat", {}, "messages"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": "hi"}, "messages"),
        ("chat", {"messages": [1]}, "messages[0]"),
        ("chat", {"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        (
            "chat",
            {"messages": [{"content": "a"}, {"content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[1].content",
        ),
        ("chat", {"messages": [{"content": "a"}], "n": 2}, "n"),
        ("completion", {}, "prompt"),
        ("completion", {"prompt": ["a", "b"]}, "prompt"),
        ("completion", {"prompt": [1, 2]}, "prompt"),
        ("embedding", {}, "input"),
        ("embedding", {"input": []}, "input"),
        ("embedding", {"input": [[1, 2]]}, "input"),
        ("embedding", {"input": ["a", 1]}, "input"),
    ],
)
def test_what_the_wire_cannot_say_is_named(kind: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        sent(fields, kind=kind)
    assert refused.value.param == param
    assert str(refused.value).startswith(param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"'])
def test_a_body_that_is_no_object(body: bytes) -> None:
    with pytest.raises(Untranslatable, match="JSON"):
        read_fields(body)


def head(kind: str = "chat") -> Head:
    return Head(kind, "req-1", "m", 1700000000)


def test_a_reply_to_a_chat() -> None:
    reply = {
        "request_id": "req-1",
        "output_text": "Hello",
        "output_tokens": [1, 2],
        "prompt_tokens": 5,
        "finish_reason": "length",
        "metrics": METRICS,
        "error": None,
    }
    status, body = whole_reply(head(), orjson.dumps(reply))
    assert status == 200
    assert orjson.loads(body) == {
        "id": "chatcmpl-req-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        "sagellm": {"output_tokens": [1, 2], "metrics": METRICS},
    }


def test_a_reply_to_a_completion() -> None:
    _, body = whole_reply(head("completion"), b'{"output_text": "Hello"}')
    assert orjson.loads(body) == {
        "id": "cmpl-req-1",
        "object": "text_completion",
        "created": 1700000000,
        "model": "m",
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def test_a_reply_that_is_openai_already() -> None:
    """sageLLM core 0.5 answers /v1/completions so."""
    reply = {"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": "Hi"}], "usage": {}}
    assert orjson.loads(whole_reply(head("completion"), orjson.dumps(reply))[1]) == reply
    chat = orjson.loads(whole_reply(head(), orjson.dumps(reply))[1])
    assert chat["object"] == "chat.completion"
    assert chat["choices"] == [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]


@pytest.mark.parametrize(
    ("error", "status", "message", "code"),
    [
        ({"code": "invalid_argument", "message": "too long"}, 400, "too long", "invalid_argument"),
        ({"code": "resource_exhausted", "message": "full"}, 429, "full", "resource_exhausted"),
        ({"code": "unavailable", "message": "down"}, 503, "down", "unavailable"),
        ({"code": "deadline_exceeded", "message": "late"}, 504, "late", "deadline_exceeded"),
        ({"code": "not_implemented", "message": "no"}, 501, "no", "not_implemented"),
        ({"code": "kv_transfer_failed", "message": "oh"}, 500, "oh", "kv_transfer_failed"),
        ({"code": "unavailable", "message": "no", "retryable": True}, 503, "no", "unavailable"),
        ({"code": "unavailable", "message": "no", "retryable": False}, 422, "no", "unavailable"),
        ({"code": "invalid_argument", "message": "no", "retryable": False}, 400, "no", "invalid_argument"),
        ("out of memory", 500, "out of memory", None),
        (None, 500, "the engine failed and did not say why", None),
        ({"code": 7, "message": 7}, 500, "the engine failed and did not say why", None),
    ],
)
def test_a_reply_that_failed(error: object, status: int, message: str, code: str | None) -> None:
    reply = orjson.dumps({"output_text": "half", "finish_reason": "error", "error": error})
    got, body = whole_reply(head(), reply)
    told = orjson.loads(body)["error"]
    assert orjson.loads(body)["sagellm"] == {"error": error}
    assert (got, told["message"], told["code"]) == (status, message, code)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"output_text": 1}'])
def test_a_reply_that_is_none(body: bytes) -> None:
    with pytest.raises(Unreadable):
        whole_reply(head(), body)


def test_vectors() -> None:
    reply = orjson.dumps({"embeddings": [[0.5, 1.0], [0.25, -1.0]], "prompt_tokens": 3})
    status, body = vectors_reply("m", None, reply)
    assert status == 200
    assert orjson.loads(body) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, 1.0]},
            {"object": "embedding", "index": 1, "embedding": [0.25, -1.0]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    packed = orjson.loads(vectors_reply("m", "base64", reply)[1])["data"][1]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (0.25, -1.0)


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html>", b"[]", b"7", b'"hi"', b"{}", b'{"output_text": "x"}'),
        *(b'{"embeddings": null}', b'{"embeddings": []}', b'{"embeddings": "ab"}', b'{"embeddings": {"0": [1.0]}}'),
        *(b'{"embeddings": [[]]}', b'{"embeddings": [1, null]}', b'{"embeddings": [["a"], [1.0]]}'),
        *(b'{"embeddings": [[1.0, null]]}', b'{"embeddings": [[true]]}', b'{"embeddings": ["ab"]}'),
    ],
)
@pytest.mark.parametrize("encoding", [None, "base64"])
def test_vectors_that_are_none(body: bytes, encoding: str | None) -> None:
    with pytest.raises(Unreadable):
        vectors_reply("m", encoding, body)


def test_vectors_are_as_many_as_the_texts() -> None:
    reply = b'{"embeddings": [[0.5, 1], [0.25, -1.0]]}'
    assert vectors_reply("m", None, reply, 2)[0] == 200
    for texts in (1, 3):
        with pytest.raises(Unreadable, match=f"2 for {texts} texts"):
            vectors_reply("m", None, reply, texts)


def test_a_vector_that_32_bits_cannot_hold() -> None:
    with pytest.raises(Unreadable, match="32 bits"):
        vectors_reply("m", "base64", b'{"embeddings": [[1e300]]}')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "as it is", "type": "x"}}', "as it is"),
        (b'{"error": "Bad Request", "detail": "prompt too long"}', "prompt too long"),
        (b'{"detail": [{"loc": ["body"], "msg": "missing"}]}', '[{"loc":["body"],"msg":"missing"}]'),
        (b'{"error": "Engine not running"}', "Engine not running"),
        (b"Internal Server Error", "Internal Server Error"),
        (b"\xff", "�"),
    ],
)
def test_error_bodies_are_openai_errors(body: bytes, message: str) -> None:
    reply = orjson.loads(error_reply(422, body))
    assert reply["error"]["message"] == message
    as_it_was = b'"type"' in body
    assert reply.get("sagellm") == (None if as_it_was else {"body": body.decode("utf-8", "replace")})
