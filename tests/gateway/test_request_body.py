"""Bodies: the few facts that scheduling needs, and what is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.client.prompt_prefix import MOST_PARTS, prefix_blocks
from sagellm_control.gateway import request_body
from sagellm_control.gateway.errors import ApiError
from sagellm_control.gateway.request_body import (
    LONGEST_TENANT,
    MOST_CONTAINERS,
    RequestBody,
    read_body,
    tenant_name,
)
from sagellm_control.wire.states import RequestKind

CHAT, COMPLETION, EMBEDDING = RequestKind.CHAT, RequestKind.COMPLETION, RequestKind.EMBEDDING
OVER_HTTP = [CHAT, COMPLETION, EMBEDDING]
HI = [{"role": "user", "content": "hi"}]


def _read(kind: RequestKind, **fields: Any) -> RequestBody:
    return read_body(orjson.dumps({"model": "m", **fields}), kind)


def test_the_facts_of_a_chat() -> None:
    body = _read(CHAT, messages=HI, stream=True, user="anna", max_tokens=7)
    assert body == RequestBody(model="m", stream=True, user="anna", prompt_tokens=1, max_tokens=7, continuable=True)


@pytest.mark.parametrize(("stream", "read"), [(None, False), (False, False), (True, True)])
def test_stream(stream: bool | None, read: bool) -> None:
    assert _read(CHAT, messages=HI, stream=stream).stream is read
    assert _read(COMPLETION, prompt="x", stream=stream).stream is read
    assert _read(EMBEDDING, input="x", stream=stream).stream is False


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, 0),
        ({"max_tokens": None}, 0),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
    ],
)
def test_max_tokens(fields: dict[str, Any], most: int) -> None:
    assert _read(CHAT, messages=HI, **fields).max_tokens == most


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [
        ([{"role": "user", "content": "x" * 400}], 100),
        ([{"role": "user", "content": "x" * 200}, {"role": "assistant", "content": "x" * 200}], 100),
        ([{"role": "user", "content": [{"type": "text", "text": "x" * 400}, {"type": "image_url"}]}], 100),
        ([{"role": "assistant", "content": None, "tool_calls": []}], 1),
        ([{"role": "user"}], 1),
    ],
)
def test_prompt_tokens_of_a_chat_are_estimated(messages: Any, tokens: int) -> None:
    assert _read(CHAT, messages=messages).prompt_tokens == tokens


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [("x" * 40, 10), (["x" * 40, "x" * 40], 20), ([1, 2, 3], 3), ([[1, 2], [3]], 3), ("", 1)],
)
def test_prompt_tokens_of_texts_are_estimated(prompt: Any, tokens: int) -> None:
    assert _read(COMPLETION, prompt=prompt).prompt_tokens == tokens
    assert _read(EMBEDDING, input=prompt).prompt_tokens == tokens


@pytest.mark.parametrize(
    ("kind", "fields", "param", "code"),
    [
        (CHAT, {"messages": HI, "model": None}, "model", "missing_required_parameter"),
        (CHAT, {"messages": HI, "model": ["m"]}, "model", "invalid_value"),
        (CHAT, {}, "messages", "missing_required_parameter"),
        (CHAT, {"messages": {}}, "messages", "invalid_value"),
        (CHAT, {"messages": [{"role": 1}]}, "messages[0].role", "invalid_value"),
        (CHAT, {"messages": HI, "stream": 1}, "stream", "invalid_value"),
        (CHAT, {"messages": HI, "max_tokens": 2**31}, "max_tokens", "invalid_value"),
        (CHAT, {"messages": HI, "max_tokens": False}, "max_tokens", "invalid_value"),
        (CHAT, {"messages": HI, "user": {}}, "user", "invalid_value"),
        (COMPLETION, {}, "prompt", "missing_required_parameter"),
        (COMPLETION, {"prompt": 3}, "prompt", "invalid_value"),
        (EMBEDDING, {}, "input", "missing_required_parameter"),
        (EMBEDDING, {"input": []}, "input", "invalid_value"),
    ],
)
def test_a_refusal_names_the_field(kind: RequestKind, fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        _read(kind, **fields)
    error = caught.value
    assert (error.status, error.param, error.code) == (400, param, code)
    assert param.partition(".")[0] in error.message


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"3", b'"x"', b"[]", b"\xff", b"{" * 5000, b'{"a":1}{'])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_body(raw, CHAT)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_a_body_that_is_no_utf_8_is_told_where() -> None:
    with pytest.raises(ApiError, match="its byte 9 is not UTF-8"):
        read_body(b'{"model":\xff}', CHAT)


@pytest.mark.parametrize("depth", [10, 100, 500, 1000])
def test_deep_nesting_does_not_break_the_estimate(depth: int) -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":' + b"[" * depth + b"]" * depth + b"}]}"
    assert read_body(raw, CHAT).prompt_tokens == 1


class Looked(list[Any]):
    """Counts how many of its parts are looked at."""

    def __init__(self, part: Any, times: int) -> None:
        super().__init__([part] * times)
        self.parts = 0

    def __iter__(self) -> Iterator[Any]:
        for part in super().__iter__():
            self.parts += 1
            yield part


@pytest.mark.parametrize("part", [[], "", {}, None, [[]], {"text": ""}], ids=str)
def test_of_a_prompt_of_very_many_parts_no_more_are_looked_at(part: Any) -> None:
    """Meanwhile nobody else is served."""
    prompt = Looked(part, 10 * MOST_PARTS)
    assert request_body._characters([prompt], 77) == 77  # pyright: ignore[reportPrivateUsage]
    assert prompt.parts <= MOST_PARTS + 1
    assert prefix_blocks("m", {"prompt": prompt}) == ()
    assert prompt.parts <= 2 * MOST_PARTS + 2


def test_more_lists_and_objects_than_any_prompt_has_are_refused() -> None:
    raw = b'{"model":"m","prompt":[' + b"[],{}," * (MOST_CONTAINERS // 2) + b"7]}"
    with pytest.raises(ApiError, match="more than 500,000 lists and objects"):
        read_body(raw, COMPLETION)


def test_token_ids_are_counted_without_looking_at_each() -> None:
    assert _read(EMBEDDING, input=[[7] * 1000] * 1000).prompt_tokens == 1_000_000


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
_FIELDS = ["model", "messages", "prompt", "input", "stream", "user", "max_tokens", "max_completion_tokens", "n"]


@given(
    st.dictionaries(st.sampled_from(_FIELDS), _VALUES),
    st.sampled_from(OVER_HTTP),
)
def test_whatever_comes_is_read_or_refused_by_name(fields: dict[str, Any], kind: RequestKind) -> None:
    read = _outcome(orjson.dumps({"model": "m", "messages": HI, "prompt": "p", "input": "i"} | fields), kind)
    if isinstance(read, ApiError):
        assert read.status == 400
        assert read.param is not None
        assert read.param.partition("[")[0] in fields
    else:
        assert read.prompt_tokens >= 1
        assert len(read.user) <= LONGEST_TENANT


def _outcome(raw: bytes, kind: RequestKind) -> RequestBody | ApiError:
    try:
        return read_body(raw, kind)
    except ApiError as error:
        return error


@pytest.mark.parametrize("user", ["", "anna", "Jürgen", "a b", "x" * LONGEST_TENANT])
def test_a_user_that_fits_is_the_tenant(user: str) -> None:
    assert tenant_name(user) == user


@pytest.mark.parametrize("user", ["x" * (LONGEST_TENANT + 1), "two\nlines", "\x00", "\ud800"])
def test_any_other_user_is_replaced_by_its_hash(user: str) -> None:
    name = tenant_name(user)
    assert len(name) <= LONGEST_TENANT
    assert name.isalnum()
    assert name == tenant_name(user)
