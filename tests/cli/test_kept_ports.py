"""Ports stay the same from run to run while they can."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sagellm_control.cli.kept_ports import KeptPorts
from sagellm_control.embedded import free_port


def test_the_same_port_again(tmp_path: Path) -> None:
    ports = KeptPorts(tmp_path)
    port = ports.take("valkey")
    other = ports.take("engine")
    ports.keep()
    assert KeptPorts(tmp_path).take("valkey") == port
    assert KeptPorts(tmp_path).take("engine") == other


def test_a_wanted_port_is_the_same_again(tmp_path: Path) -> None:
    wanted = free_port()
    ports = KeptPorts(tmp_path)
    assert ports.take("valkey", wanted) == wanted
    ports.keep()
    assert KeptPorts(tmp_path).take("valkey") == wanted


def test_another_port_when_somebody_has_it(tmp_path: Path) -> None:
    ports = KeptPorts(tmp_path)
    port = ports.take("valkey")
    ports.keep()
    with socket.create_server(("127.0.0.1", port)):
        assert KeptPorts(tmp_path).take("valkey") != port
    assert KeptPorts(tmp_path).take("valkey") == port  # what was not kept is not remembered


@pytest.mark.parametrize("content", ["", "[]", '{"valkey": "x"}', '{"valkey": -1}', "\x00"])
def test_a_file_that_makes_no_sense(content: str, tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text(content)
    assert KeptPorts(tmp_path).take("valkey") > 0
