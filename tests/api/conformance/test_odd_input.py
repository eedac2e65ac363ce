"""What cannot be sent to an engine is an error in the answer that names it, wherever the manager's state lives."""

from __future__ import annotations

from typing import Any

import pytest
from sagellm_protocol import ChatMessage, ErrorCode, StreamEventEnd

from sagellm_control import EngineState

from ..conftest import StartEngine, StartPlane, a_request

BROKEN = "\ud800"
"""Half of a character: no UTF-8."""


@pytest.mark.parametrize(
    ("named", "fields"),
    [
        ("prompt", {"prompt": f"Hello {BROKEN}"}),
        ("messages", {"prompt": "", "messages": [ChatMessage(role="user", content=BROKEN)]}),
        ("metadata", {"metadata": {"x": BROKEN}}),
        ("metadata", {"metadata": {"x": 2**70}}),
        ("model", {"model": BROKEN}),
        ("request_id", {"request_id": f"r-{BROKEN}"}),
        ("trace_id", {"trace_id": BROKEN}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_request_that_cannot_be_sent(start_plane: StartPlane, named: str, fields: dict[str, Any]) -> None:
    plane = await start_plane()
    request = a_request().model_copy(update=fields)
    response = await plane.manager.execute_request(request)
    (end,) = [event async for event in plane.manager.stream_request(request)]
    assert isinstance(end, StreamEventEnd)
    for error in (response.error, end.error):
        assert error is not None
        assert (error.code, error.retryable) == (ErrorCode.INVALID_ARGUMENT, False)
        assert error.message.startswith(f"{named} cannot be written as JSON: ")


async def test_texts_that_cannot_be_sent(start_plane: StartPlane, start_engine: StartEngine) -> None:
    plane = await start_plane()
    plane.register("v", await start_engine(models=["vectors"]), model="vectors", engine_kind="embedding")
    await plane.ready("v")
    with pytest.raises(ValueError, match=r"^texts cannot be written as JSON"):
        await plane.manager.get_embeddings([BROKEN], "vectors")
    with pytest.raises(ValueError, match=r"^trace_id cannot be written as JSON"):
        await plane.manager.get_embeddings(["one"], "vectors", BROKEN)


async def test_values_that_json_does_not_know_are_sent_as_text(
    start_plane: StartPlane, start_engine: StartEngine
) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    metadata = {"labels": {1: {2}, EngineState.READY: object()}}
    assert (await plane.manager.execute_request(a_request(metadata=metadata))).error is None


@pytest.mark.parametrize("ids", [(f"r-{BROKEN}", "t"), (None, None), (5, 6)], ids=ascii)
async def test_a_place_may_have_any_id(
    start_plane: StartPlane, start_engine: StartEngine, ids: tuple[Any, Any]
) -> None:
    plane = await start_plane()
    plane.register("e1", await start_engine())
    await plane.ready("e1")
    request_id, trace_id = ids
    await plane.placed(request_id, trace_id=trace_id)
    plane.manager.complete_request(request_id, "e1")
    await plane.active("e1", 0)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", None), (None, 8001), ("127.0.0.1", -1), ("a b", 80)])
async def test_an_address_that_is_none(start_plane: StartPlane, host: Any, port: Any) -> None:
    plane = await start_plane()
    plane.manager.register_engine("e1", "simulated-1", host, port)
    plane.manager.update_engine_state("e1", EngineState.READY)
    response = await plane.manager.execute_request(a_request(), timeout_s=5)
    assert response.error is not None
    assert response.error.code == ErrorCode.UNAVAILABLE
    assert response.error.retryable is True


async def test_a_key_that_is_none(start_plane: StartPlane) -> None:
    plane = await start_plane()
    with pytest.raises(TypeError, match=r"metadata\['api_key'\] must be a string, not 5"):
        plane.manager.register_engine("e1", "simulated-1", "127.0.0.1", 1, metadata={"api_key": 5})
    assert plane.manager.list_engines() == []
