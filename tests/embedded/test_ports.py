"""A port that was found free is still free when its server starts, however many look for ports meanwhile."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from sagellm_control.embedded import LOOPBACK, free_port, ports


@pytest.fixture(params=["below those of outgoing connections", "any"])
def outgoing_from(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The first of the ports that the system gives to outgoing connections; "any": all are."""
    lowest = 32_768 if request.param != "any" else 1024
    said = tmp_path / "ip_local_port_range"
    said.write_text(f"{lowest}\t60999\n")
    monkeypatch.setattr(ports, "_FOR_OUTGOING", said)
    return lowest


def test_it_is_kept_for_the_server_that_is_to_listen(outgoing_from: int) -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((LOOPBACK, port))
    for host in (LOOPBACK, "0.0.0.0", LOOPBACK):  # and again, after it has ended
        with socket.create_server((host, port)):  # which reuses addresses, as servers do
            pass


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="the system has no SO_REUSEPORT")
@pytest.mark.parametrize("options", [("SO_REUSEPORT",), ("SO_REUSEADDR",), ("SO_REUSEADDR", "SO_REUSEPORT")])
def test_it_is_kept_for_servers_that_reuse_the_address_or_the_port(options: tuple[str, ...]) -> None:
    port = free_port()
    with socket.socket() as server:  # llama.cpp's sets SO_REUSEPORT alone
        for option in options:
            server.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        server.bind((LOOPBACK, port))


def test_the_system_gives_it_to_nobody_else(outgoing_from: int) -> None:
    found = {free_port() for _ in range(50)}
    assert len(found) == 50
    with_any = [socket.create_server((LOOPBACK, 0)) for _ in range(500)]
    try:
        assert found.isdisjoint(server.getsockname()[1] for server in with_any)
    finally:
        for server in with_any:
            server.close()


def test_it_is_not_one_of_those_for_outgoing_connections() -> None:
    assert all(free_port() < ports._first_for_outgoing() for _ in range(20))


def test_whom_others_are_about_to_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as one, socket.create_server((LOOPBACK, 0)) as another:
        first, second = one.getsockname()[1], another.getsockname()[1]
    drawn = iter([first, first, second])
    monkeypatch.setattr(random, "randrange", lambda *_: next(drawn))
    assert [free_port(), free_port()] == [first, second]


@pytest.mark.parametrize("said", [None, "", "what\n"])
def test_a_system_that_says_no_range(said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if said is not None:
        (tmp_path / "range").write_text(said)
    monkeypatch.setattr(ports, "_FOR_OUTGOING", tmp_path / "range")
    assert 10_000 <= free_port() < 32_768


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "::"])
def test_other_addresses(host: str) -> None:
    with socket.create_server((host, free_port(host)), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
        pass
