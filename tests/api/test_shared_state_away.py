"""A manager whose shared state is away says so in its answers, as it does of engines; it raises nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest
from sagellm_protocol import Error, ErrorCode, StreamEventEnd

from sagellm_control import ControlPlaneManager, EngineState, EngineUnavailableError, RequestStatus
from sagellm_control.embedded import EmbeddedValkey, free_port
from sagellm_control.store.connect import StoreUnreachable

from .conftest import a_request

MODEL = "simulated-1"


@pytest.fixture
async def lost() -> AsyncGenerator[ControlPlaneManager, None]:
    """Started on a server that has gone since."""
    async with AsyncExitStack() as server:
        valkey = await server.enter_async_context(EmbeddedValkey(persist=False))
        manager = ControlPlaneManager(redis_url=valkey.url)
        await manager.start()
        manager.register_engine("e1", MODEL, "127.0.0.1", 1)
        manager.register_engine("v1", "vectors", "127.0.0.1", 1, "embedding")
        assert not (await manager.schedule_request("r0", "t", MODEL)).is_scheduled, "all is written"
        await server.aclose()
        yield manager
        await manager.stop()


def _says_so(error: Error | None) -> bool:
    assert error is not None
    return (error.code, error.retryable) == (ErrorCode.UNAVAILABLE, True) and "not available" in error.message


async def _answers(manager: ControlPlaneManager) -> None:
    assert _says_so((await manager.execute_request(a_request())).error)
    (end,) = [event async for event in manager.stream_request(a_request())]
    assert isinstance(end, StreamEventEnd)
    assert _says_so(end.error)
    decision = await manager.schedule_request("r1", "t", MODEL)
    assert (decision.status, decision.engine_id) == (RequestStatus.FAILED, None)
    assert decision.reason.startswith("The shared state is not available: ")
    assert await manager.wait_scheduled("nobody", 0.1) is None
    manager.complete_request("r1", "e1")


async def test_a_server_that_was_never_there() -> None:
    manager = ControlPlaneManager(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreUnreachable):
        await manager.start()
    await _answers(manager)
    manager.register_engine("e1", MODEL, "127.0.0.1", 1)
    await _answers(manager)
    await manager.stop()


async def test_a_server_that_has_gone(lost: ControlPlaneManager) -> None:
    await _answers(lost)
    assert lost.update_engine_state("v1", EngineState.READY)  # is still to be written
    await _answers(lost)
    with pytest.raises(EngineUnavailableError, match="not available"):
        await lost.get_embeddings(["one"], "vectors")
