"""What two workers tell each other of a request that their engines hold together."""

from __future__ import annotations

import orjson
import pytest

from sagellm_workers.pairs.paired_request import PromptOrder, error_in, meeting_place, with_meeting_place


def test_an_order_is_read_as_it_was_written() -> None:
    order = PromptOrder("r-1", 3, b'{"a":\n1}\n')
    assert PromptOrder.decode(order.encode()) == order


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        (b"", "Input is a zero-length"),
        (b"\xff\n", "unexpected character|surrogates|invalid"),
        (b"{}", "no request"),
        (b"{}\n{}", "no request"),
        (b'{"request_id":"r"}\n', "no request"),
        (b"[1]\n", "no request"),
    ],
)
def test_what_is_no_order_is_none(garbage: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PromptOrder.decode(garbage)


@pytest.mark.parametrize(
    ("url", "host"),
    [("http://10.0.0.7:30000", "10.0.0.7"), ("http://p.local:1/v1", "p.local"), ("http://[::1]:30000", "[::1]")],
)
def test_both_engines_are_told_where_to_meet(url: str, host: str) -> None:
    place = meeting_place(url, 8998, 7)
    body = orjson.loads(with_meeting_place(b'{"model":"m","bootstrap_room":1}', place))
    assert body == {"model": "m", "bootstrap_host": host, "bootstrap_port": 8998, "bootstrap_room": 7}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b'data: {"error":{"message":"KVTransferError"}}\n\ndata: [DONE]\n\n', "KVTransferError"),
        (b'{"error":"no"}', "no"),
        (b'data: {"choices":[{"delta":{"content":"\\"error\\""}}]}\n\n', None),
        (b'{"choices":[]}', None),
        (b'data: "error"\n\n', None),
        (b'data: {"error\n\n', None),
        (b"", None),
    ],
)
def test_an_error_of_status_200(answer: bytes, error: str | None) -> None:
    told = error_in(answer)
    assert (told and told.message) == error
