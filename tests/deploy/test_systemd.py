"""The example units: their commands parse, and what runs is given time to finish."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from .conftest import ParseCommand

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
INSTANCE = "8001"


def read_unit(path: Path) -> dict[str, str]:
    """The settings of all sections; of one that stands more than once, the last."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "#;["]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_command_that_exists(path: Path, parse_command: ParseCommand) -> None:
    unit = read_unit(path)
    program, *words = shlex.split(unit["ExecStart"].replace("%i", INSTANCE))
    assert program == "/opt/sagellm-control/bin/sagellm-control"
    assert path.name.removesuffix(".service").removesuffix("@") == f"sagellm-control-{words[0]}"
    settings = parse_command(words)
    drain_s = {"gateway": settings.gateway.shutdown_s, "worker": settings.worker.drain_s}.get(words[0], 0)
    assert float(unit["TimeoutStopSec"]) > drain_s + 5
    if words[0] == "worker":
        assert settings.worker.engine == [f"http://127.0.0.1:{INSTANCE}"]


def test_there_is_a_unit_for_each_role() -> None:
    assert [path.name for path in UNITS] == [
        "sagellm-control-gateway.service",
        "sagellm-control-scheduler@.service",
        "sagellm-control-worker@.service",
    ]
