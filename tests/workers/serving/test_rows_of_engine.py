"""What an engine is called, and how its slots are divided among the rows of its models."""

from __future__ import annotations

import socket

import pytest

from sagellm_workers.adapters.base import EngineFacts, ModelFacts
from sagellm_workers.serving.rows_of_engine import engine_id, make_rows
from sagellm_workers.settings import WorkerSettings

HERE = socket.gethostname()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_where_everybody_looks_for_this_machine_its_name_stands(host: str) -> None:
    assert engine_id(f"http://{host}:8100") == f"{HERE}:8100"


def test_engines_of_one_port_at_several_addresses_of_the_loopback_are_several() -> None:
    assert engine_id("http://127.0.0.2:8100/v1") == f"{HERE}-127.0.0.2:8100"
    assert engine_id("http://127.1.2.3:8100/b") == f"{HERE}-127.1.2.3:8100_b"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://gpu1:8000/v1/", "gpu1:8000"),
        ("https://gpu1", "gpu1:443"),
        ("http://gpu1", "gpu1:80"),
        ("http://gpu1:8000/engines/a/v1", "gpu1:8000_engines_a"),
    ],
)
def test_elsewhere_it_is_host_and_port(url: str, name: str) -> None:
    assert engine_id(url) == name


def slots(number: int, *models: str, only: tuple[str, ...] = ()) -> dict[str, int]:
    facts = EngineFacts("openai", "", tuple(map(ModelFacts, models)), number, None)
    rows = make_rows("http://engine:8000", facts, WorkerSettings(model=list(only)))
    return {row.pool: row.slots for row in rows}


@pytest.mark.parametrize(
    ("number", "divided"),
    [
        (3, {"a": 2, "b": 1}),
        (4, {"a": 2, "b": 2}),
        (1, {"a": 1, "b": 1}),
        (5, {"a": 2, "b": 2, "c": 1}),
        (2, {"a": 1, "b": 1, "c": 1}),
        (7, {"a": 7}),
    ],
)
def test_no_slot_is_left_over(number: int, divided: dict[str, int]) -> None:
    assert slots(number, *divided) == divided


def test_who_gets_one_more_does_not_depend_on_the_order_of_the_list() -> None:
    assert slots(5, "a", "b", "c") == slots(5, "c", "a", "b") == slots(5, "b", "c", "a")


def test_models_that_are_not_asked_for_get_none() -> None:
    assert slots(3, "a", "b", "c", only=("b", "c")) == {"b": 2, "c": 1}
