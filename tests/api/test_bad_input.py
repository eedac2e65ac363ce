"""Arguments and metadata that cannot be used: the error names them, and what may stand there."""

from __future__ import annotations

from typing import Any

import pytest
from sagellm_protocol import ErrorCode, StreamEventEnd

from sagellm_control import ControlPlaneManager, EngineState

from .conftest import a_request

MODEL = "simulated-1"
NAN = float("nan")


@pytest.fixture
def manager() -> ControlPlaneManager:
    """With an engine that nobody asks for anything."""
    manager = ControlPlaneManager()
    manager.register_engine("e1", MODEL, "127.0.0.1", 1, metadata={"pre_verified_healthy": True})
    return manager


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"health_check_interval_s": "often"}, "health_check_interval_s"),
        ({"max_consecutive_failures": None, "health_check_interval_s": NAN}, "health_check_interval_s"),
        ({"max_consecutive_failures": "three"}, "max_consecutive_failures"),
    ],
)
def test_arguments_that_are_no_numbers(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises((TypeError, ValueError), match=named):
        ControlPlaneManager(**arguments)


@pytest.mark.parametrize("url", ["nonsense", "http://h", "", "redis://h:x/0", "redis+sentinel://h:1/m/x", 5], ids=str)
def test_a_redis_url_that_is_none(url: Any) -> None:
    with pytest.raises(ValueError, match=f"^redis_url {url!r} cannot be used: ".replace("+", r"\+")):
        ControlPlaneManager(redis_url=url)


def test_a_redis_url_of_the_environment_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELLM_CONTROL_REDIS_URL", "nonsense")
    with pytest.raises(ValueError, match=r"^SAGELLM_CONTROL_REDIS_URL 'nonsense' cannot be used: "):
        ControlPlaneManager()


def test_a_namespace_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"^namespace 'a b' cannot be used: "):
        ControlPlaneManager(redis_url="redis://127.0.0.1:1/0", namespace="a b")


@pytest.mark.parametrize(
    ("metadata", "error"), [("x", TypeError), ({"kv_tokens": 0}, ValueError), ({"kv_tokens": True}, ValueError)]
)
def test_metadata_of_an_engine(metadata: Any, error: type[Exception]) -> None:
    manager = ControlPlaneManager()
    with pytest.raises(error, match="metadata"):
        manager.register_engine("e1", MODEL, "127.0.0.1", 1, metadata=metadata)
    assert manager.get_engine("e1") is None
    assert not manager.list_engines(EngineState.READY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": 5},
        {"max_tokens": "many"},
        {"max_tokens": NAN},
        {"deadline_ms": "soon"},
        {"deadline_ms": float("inf")},
    ],
    ids=str,
)
async def test_arguments_of_a_reservation(manager: ControlPlaneManager, wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be .* not {value!r}$"):
        await manager.schedule_request("r", "t", MODEL, **wrong)
    assert [info.active_requests for info in manager.list_engines()] == [0]


@pytest.mark.parametrize(
    "odd", [{"max_tokens": -5}, {"deadline_ms": -1}, {"priority": 99}, {"priority": None}, {"prompt": None}], ids=str
)
async def test_what_programs_are_used_to_is_taken(manager: ControlPlaneManager, odd: dict[str, Any]) -> None:
    request_id: Any = None
    assert (await manager.schedule_request(request_id, request_id, MODEL, **odd)).engine_id == "e1"
    manager.complete_request(request_id, "nowhere")
    manager.complete_request(request_id, "e1")
    assert [info.active_requests for info in manager.list_engines()] == [0]


async def test_an_engine_may_be_nameless(caplog: pytest.LogCaptureFixture) -> None:
    manager = ControlPlaneManager(routing_strategy="round_robin")
    manager.register_engine("", MODEL, "127.0.0.1", 1, metadata={"pre_verified_healthy": True})
    decision = await manager.schedule_request("r", "t", MODEL)
    assert (decision.engine_id, decision.is_scheduled, caplog.text) == ("", True, "")


def test_states_by_name(manager: ControlPlaneManager) -> None:
    draining: Any = "DRAINING"
    assert manager.update_engine_state("e1", draining)
    assert [info.engine_id for info in manager.list_engines(draining)] == ["e1"]
    tired: Any = "TIRED"
    with pytest.raises(ValueError, match=r"state must be an EngineState .*READY.* not 'TIRED'"):
        manager.update_engine_state("e1", tired)


async def test_what_is_no_request(manager: ControlPlaneManager) -> None:
    request: Any = {"prompt": "Hello"}
    with pytest.raises(TypeError, match=r"request must be a sagellm_protocol.Request, not {'prompt'"):
        await manager.execute_request(request)
    with pytest.raises(TypeError, match="request must be"):
        await anext(manager.stream_request(request))


@pytest.mark.parametrize(
    ("texts", "named"),
    [("one text", "texts must be a list"), (5, "texts must be"), (["one", 2], r"texts\[1\] must be")],
)
async def test_texts_that_are_none(manager: ControlPlaneManager, texts: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        await manager.get_embeddings(texts)


@pytest.mark.parametrize("timeout_s", [0, -1, NAN, "1", True, float("inf")])
async def test_a_time_limit_that_is_none(manager: ControlPlaneManager, timeout_s: Any) -> None:
    response = await manager.execute_request(a_request(), timeout_s=timeout_s)
    assert response.error is not None
    assert response.error.code is ErrorCode.INVALID_ARGUMENT
    assert response.error.message == f"timeout_s must be a number of seconds above 0, not {timeout_s!r}"


@pytest.mark.parametrize(
    "metadata",
    [
        {"priority": "SOON"},
        {"priority": 9},
        {"timeout_ms": "1"},
        {"slo_deadline_ms": -1},
        {"tpot_slo_ms": NAN},
        {"session": ""},
        {"session": "s" * 257},
        {"reject_late": 1},
    ],
    ids=str,
)
async def test_metadata_of_a_request(manager: ControlPlaneManager, metadata: dict[str, Any]) -> None:
    response = await manager.execute_request(a_request(metadata=metadata))
    (end,) = [event async for event in manager.stream_request(a_request(metadata=metadata))]
    assert isinstance(end, StreamEventEnd)
    for error in (response.error, end.error):
        assert error is not None
        assert (error.code, error.retryable) == (ErrorCode.INVALID_ARGUMENT, False)
        assert f"metadata['{next(iter(metadata))}']" in error.message
