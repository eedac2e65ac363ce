"""HTTP requests that nobody would send on purpose."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from sagellm_control.gateway.request_headers import _OURS  # pyright: ignore[reportPrivateUsage]

from ..flow.asking import MODEL, chat

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    f"/v1/models/{MODEL}",
    "/v1/requests/known",
    "/v1/requests/known/events",
    "/v1/requests/known/result",
    "/v1/requests/known/explain",
    "/admin/set_policy",
    "/admin/metrics",
    "/health",
    "/ready",
    "/metrics",
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PROPFIND")
HEADERS = ("Authorization", "Content-Type", "Content-Encoding", "Last-Event-ID", *sorted(_OURS))
HUGE: tuple[Any, ...] = (-1, 0, 2**31, 2**63, -(2**63), 10**30, 1e308, -0.0, 1.5)
DEEP = 2000
"""Deeper than any parser follows."""
LONG = "p" * 3000
"""A prompt whose beginning is remembered."""

numbers = st.sampled_from(HUGE) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars: st.SearchStrategy[Any] = st.none() | st.booleans() | numbers | st.text(max_size=12)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
FIELDS = (
    *(
        "model",
        "messages",
        "prompt",
        "input",
        "stream",
        "stream_options",
        "user",
        "max_tokens",
        "max_completion_tokens",
    ),
    *("policy", "placement", "aging_s", "weights"),
    *("n", "logprobs", "tools", "tool_choice", "response_format", "stop", "temperature", "continue_final_message"),
)


@st.composite
def json_bodies(draw: st.DrawFn) -> bytes:
    """Most of a good body, with some of its fields replaced."""
    good: dict[str, Any] = chat(max_tokens=2) | {"prompt": "x", "input": "x", "policy": "fifo"}
    body = good | draw(st.dictionaries(st.sampled_from(FIELDS), values, max_size=3))
    if draw(st.booleans()):
        body["messages"] = [{"role": "user", "content": draw(values)}]
    text = json.dumps(body)
    if draw(st.booleans()):
        text = text.replace('"x"', "[" * DEEP + "]" * DEEP if draw(st.booleans()) else "9" * DEEP)
    return text.encode("utf-8", "surrogatepass")


bodies = json_bodies() | values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200) | st.just(b"")
# Whatever bytes a header line may hold without ending it.
line_bytes = st.binary(max_size=80).map(lambda b: bytes(c for c in b if c >= 0x20 and c != 0x7F))
header_values = (
    line_bytes
    | numbers.map(lambda number: str(number).encode())
    | st.text(max_size=40).map(lambda text: b"".join(text.encode("utf-8", "surrogatepass").split()))
    | st.sampled_from([b"true", b"never", b"HIGH", b"known", b"1-1", b"1-1.1", b"9" * 5000, b"gzip"])
)
digits = st.builds(lambda zeros, nines: b"0" * zeros + b"1" + b"9" * nines, st.integers(0, 20), st.integers(0, 5000))
tokens = st.text("abcXYZ-_~!", min_size=1, max_size=12)
names = st.sampled_from(HEADERS) | tokens
segments = st.binary(max_size=12).map(lambda b: "".join(f"%{c:02x}" for c in b))
paths = st.sampled_from(PATHS) | st.builds(
    lambda base, more: f"{base}/{more}", st.sampled_from((*PATHS, "/v1/requests", "")), segments | tokens
)
methods = st.sampled_from(METHODS) | tokens


@st.composite
def inferences(draw: st.DrawFn, key: str) -> bytes:
    """A request to a model that carries an API key: of body and headers one is wrong, so that it gets read."""
    body: dict[str, Any] = chat(max_tokens=2) | {"prompt": LONG, "input": LONG}
    headers = {"Authorization": f"Bearer {key}".encode()}
    if draw(st.booleans()):
        for names in (("messages", "prompt", "input"), FIELDS):
            body |= draw(st.dictionaries(st.sampled_from(names), scalars | values, max_size=1))
    else:
        numbered = st.tuples(st.sampled_from(("X-Request-Timeout-Ms", "X-SLO-Deadline-Ms", "X-SLO-TPOT-Ms")), digits)
        free = st.tuples(st.sampled_from(("Idempotency-Key", "X-Session-ID", "traceparent")), line_bytes)
        others = st.tuples(st.sampled_from(HEADERS), header_values)
        headers |= dict(draw(st.lists(numbered | free | others, max_size=2)))
        headers["Authorization"] = b"Bearer " + draw(st.sampled_from([key.encode()] * 4) | line_bytes)
    raw = json.dumps(body).encode("utf-8", "surrogatepass")
    return _written("POST", draw(st.sampled_from(PATHS[:3])), headers, raw)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request whose framing is right, so that it reaches an endpoint, and of which all else may be wrong."""
    method, path, body = draw(methods), draw(paths), draw(bodies)
    known = dict(draw(st.lists(st.tuples(names, header_values), max_size=4)))
    return _written(method, path, known, body)


@st.composite
def broken_requests(draw: st.DrawFn) -> bytes:
    """A request with some of its bytes replaced, left out or repeated; or no request at all."""
    whole = bytearray(draw(requests()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(whole)))
        whole[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    return bytes(whole) if draw(st.integers(0, 9)) else draw(st.binary(max_size=300))


def _written(method: str, path: str, headers: dict[str, bytes], body: bytes) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n".encode()
    return head + b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers.items()) + b"\r\n" + body
