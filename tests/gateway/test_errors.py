"""Errors in OpenAI's form."""

from __future__ import annotations

import orjson
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sagellm_control.client.errors import (
    NoEngineReady,
    QueueError,
    QueueFull,
    QueueUnavailable,
    RequestConflict,
    TooLate,
    UnknownModel,
    UnknownRequest,
)
from sagellm_control.gateway.errors import ApiError, error_body, from_ending, from_queue, unavailable
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome, Reason


def test_the_body_has_openais_four_fields() -> None:
    error = ApiError(400, "stream must be true or false.", code="invalid_value", param="stream")
    assert orjson.loads(error.body()) == {
        "error": {
            "message": "stream must be true or false.",
            "type": "invalid_request_error",
            "param": "stream",
            "code": "invalid_value",
        }
    }


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (503, "service_unavailable_error"),
        (418, "api_error"),
        (500, "api_error"),
    ],
)
def test_the_type_follows_the_status(status: int, name: str) -> None:
    assert orjson.loads(error_body(status, "x", code="y"))["error"]["type"] == name


@pytest.mark.parametrize(("seconds", "header"), [(None, None), (0, "1"), (0.2, "1"), (7, "7"), (59.6, "60")])
def test_retry_after_is_whole_seconds_and_never_zero(seconds: float | None, header: str | None) -> None:
    response = ApiError(503, "x", code="y", retry_after_s=seconds).response()
    assert response.headers.get("Retry-After") == header


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (UnknownModel("x", ["b", "a"]), 404, "model_not_found", "model"),
        (UnknownModel("x", []), 503, "no_engine", None),
        (NoEngineReady("x", 3), 503, "no_engine", None),
        (QueueFull("x", 10, 4, limit=10), 429, "queue_full", None),
        (QueueFull("x", 10, 4, Reason.TENANT_FULL, limit=2), 429, "tenant_full", None),
        (TooLate("x", 7.5, 4), 503, "too_late", None),
        (RequestConflict("id-1"), 409, "request_id_exists", "X-Request-ID"),
        (QueueUnavailable("gone"), 503, "queue_unavailable", None),
    ],
)
def test_what_the_queue_refuses(error: QueueError, status: int, code: str, param: str | None) -> None:
    seen = from_queue(error)
    assert (seen.status, seen.code, seen.param) == (status, code, param)
    assert str(error) in seen.message
    assert (seen.retry_after_s is not None) == (status in (429, 503))


@pytest.mark.parametrize(
    "away",
    [
        *(kind("Error 111 connecting to 10.0.0.7:6379") for kind in (RedisConnectionError, RedisTimeoutError, OSError)),
        MovedError("1234 10.0.0.7:6379"),
    ],
    ids=repr,
)
def test_where_redis_is_is_none_of_a_clients_business(away: Exception) -> None:
    for seen in (from_queue(QueueUnavailable(away)), unavailable(away)):
        assert "Redis cannot be reached" in seen.message
        assert "10.0.0.7" not in seen.message


def test_every_error_of_the_queue_is_known() -> None:
    known = {UnknownModel, NoEngineReady, QueueFull, RequestConflict, QueueUnavailable, UnknownRequest, TooLate}
    assert set(QueueError.__subclasses__()) == known


def test_known_models_are_listed_in_order() -> None:
    assert "Known models: a, b." in str(UnknownModel("x", ["b", "a"]))


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        (Ending(Outcome.EXPIRED, 408, code="deadline_exceeded", message="late"), 408, "deadline_exceeded"),
        (Ending(Outcome.CANCELLED, 499, code="cancelled"), 499, "cancelled"),
        (Ending(Outcome.DEAD, 500), 500, "dead"),
    ],
)
def test_an_ending_without_a_body(ending: Ending, status: int, code: str) -> None:
    error = from_ending(ending)
    assert (error.status, error.code) == (status, code)
    assert error.message
