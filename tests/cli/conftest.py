"""What the tests of the command line share: a clean environment, and the command itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sagellm_control.cli.root import root

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting from outside: neither environment nor a TOML file in the current folder."""
    for name in os.environ:
        if name.startswith("SAGELLM_CONTROL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command() -> Command:
    """Runs ``sagellm-control`` with the given words, in this process."""

    def run(*words: str, text: str | bytes | None = None) -> Result:
        return CliRunner().invoke(root, list(words), input=text, prog_name="sagellm-control")

    return run
