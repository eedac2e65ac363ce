"""Which addresses are those of the own gateway, and which only look like them."""

from __future__ import annotations

import socket

import pytest

from sagellm_control.cli.own_gateway import leads_to


@pytest.mark.parametrize(
    ("url", "host", "port", "own"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, True),
        ("http://localhost:8000/v1", "127.0.0.1", 8000, True),
        ("http://127.0.0.1:8000", "localhost", 8000, True),
        ("http://[::1]:8000", "::1", 8000, True),
        ("http://127.0.0.5:8000", "0.0.0.0", 8000, True),
        ("http://[::1]:8000", "::", 8000, True),
        ("http://0.0.0.0:8000", "0.0.0.0", 8000, True),
        (f"http://{socket.gethostname()}:8000", "0.0.0.0", 8000, True),
        ("http://10.0.0.7:8000", "10.0.0.7", 8000, True),
        ("http://gateway", "gateway", 80, True),
        ("http://127.0.0.1:8001", "127.0.0.1", 8000, False),
        ("http://127.0.0.2:8000", "127.0.0.1", 8000, False),
        ("http://[::1]:8000", "127.0.0.1", 8000, False),
        ("http://127.0.0.1:8000", "10.0.0.7", 8000, False),
        ("http://10.0.0.8:8000", "0.0.0.0", 8000, False),
        ("https://127.0.0.1", "127.0.0.1", 80, False),
    ],
)
def test_an_address(url: str, host: str, port: int, own: bool) -> None:
    assert leads_to(url, host, port) is own
