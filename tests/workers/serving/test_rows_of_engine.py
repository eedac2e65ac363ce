"""What an engine is called."""

from __future__ import annotations

import socket

import pytest

from sagellm_workers.serving.rows_of_engine import engine_id

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
