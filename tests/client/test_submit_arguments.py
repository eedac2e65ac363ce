"""What ``submit`` takes, and how it refuses what cannot be meant."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sagellm_control.client import QueueClient
from sagellm_control.client.submit_arguments import read_priority
from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.trace_context import TraceContext

NOBODY = RedisSettings(url="redis://127.0.0.1:1/0")
"""Whatever goes there raises QueueUnavailable."""


@pytest.mark.parametrize("given", [RequestPriority.HIGH, "HIGH", "high", " High ", 1, "1"])
def test_a_class(given: object) -> None:
    assert read_priority(given) is RequestPriority.HIGH


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"priority": 7}, r"^priority must be one of CRITICAL \(0\), .*BACKGROUND \(4\), not 7$"),
        ({"priority": "SOON"}, r"^priority must be one of .*, not 'SOON'$"),
        ({"priority": True}, r"^priority must be one of .*, not True$"),
        ({"priority": None}, r"^priority must be one of .*, not None$"),
        ({"kind": "rerank"}, r"^kind must be one of chat, completion, embedding, .*, not 'rerank'$"),
        ({"timeout_s": "x"}, r"^timeout_s must be a time from 0 to 1000000000 seconds, not 'x'$"),
        ({"timeout_s": -1}, r"^timeout_s must be a time .*, not -1$"),
        ({"timeout_s": float("nan")}, r"^timeout_s must be a time .*, not nan$"),
        ({"slo_s": True}, r"^slo_s must be a time .*, not True$"),
        ({"orphan_grace_s": [1]}, r"^orphan_grace_s must be a time .*, not \[1\]$"),
        ({"prompt_tokens": "7"}, r"^prompt_tokens must be a whole number from 0 to .*, not '7'$"),
        ({"max_tokens": -1}, r"^max_tokens must be a whole number .*, not -1$"),
        ({"tpot_slo_ms": 1.5}, r"^tpot_slo_ms must be a whole number .*, not 1.5$"),
        ({"queue_ttl_ms": 10**15}, r"^queue_ttl_ms must be a whole number "),
        ({"tenant": None}, r"^tenant must be text, not None$"),
        ({"tenant": "\ud800"}, r"^tenant must be text that UTF-8 can say, not '\\ud800'$"),
        ({"prefix": ("ab", "\ud800")}, r"^prefix\[1\] must be text that UTF-8 can say"),
        ({"trace": "t-1"}, r"^trace must be a TraceContext, not 't-1'$"),
        ({"trace": TraceContext("t", cast(str, 1))}, r"^trace.traceparent must be text, not 1$"),
        ({"session": 1}, r"^session must be text, not 1$"),
        ({"prefix": "ab"}, r"^prefix must be a tuple "),
        ({"prefix": ("a", 1)}, r"^prefix must be a tuple of the hashes"),
        ({"weight": 0}, r"^weight must be a number from 0.0001 to 1000, not 0$"),
        ({"weight": 0.00009}, r"^weight must be a number from 0.0001 to 1000, not 9e-05$"),
        ({"weight": 1e6}, r"^weight must be a number from 0.0001 to 1000, not 1000000.0$"),
        ({"weight": "2"}, r"^weight must be a number from 0.0001 to 1000, not '2'$"),
        ({"reject_late": "no"}, r"^reject_late must be True or False, not 'no'$"),
        ({"request_id": "a b"}, r"^request_id must be 1 to 64 letters, .*, not 'a b'$"),
        ({"request_id": 7}, r"^request_id must be .*, not 7$"),
        ({"model": 7}, r"^model must be text, not 7$"),
        ({"body": "Hello"}, r"^body must be an OpenAI request, as a mapping or as bytes, not str$"),
        ({"body": {"messages": {1, 2}}}, r"^body must be what JSON can say: "),
    ],
    ids=str,
)
async def test_what_cannot_be_meant_is_refused_by_its_name(changes: dict[str, Any], told: str) -> None:
    fields: dict[str, Any] = {"model": "m", "body": {}, **changes}
    with pytest.raises(ValueError, match=told):
        await QueueClient(Store(NOBODY)).submit(fields.pop("model"), fields.pop("body"), **fields)


async def test_an_unknown_argument() -> None:
    with pytest.raises(TypeError, match=r"^submit\(\) has no argument 'timeout_ms'; .*: prefix, queue_ttl_ms, "):
        await QueueClient(Store(NOBODY)).submit("m", {}, timeout_ms=5)  # type: ignore[call-arg]
