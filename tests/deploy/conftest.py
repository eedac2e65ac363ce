"""What the real command line makes of a command: its settings, or the error that a user would see."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pytest

from sagellm_control.cli import options
from sagellm_control.cli.root import root
from sagellm_control.settings import ENV_PREFIX, Settings, load_settings


class ParseCommand(Protocol):
    """Parses the words behind ``sagellm-control`` under an environment; starts nothing."""

    def __call__(self, words: Sequence[str], environment: Mapping[str, object] = ...) -> Settings: ...


class _Parsed(Exception):
    """Thrown where the command would begin to act."""


@pytest.fixture
def parse_command(monkeypatch: pytest.MonkeyPatch) -> ParseCommand:
    """The real command line, with nothing of this machine's settings."""
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)
    # No sagellm-control.toml of the developer's.
    monkeypatch.setenv(f"{ENV_PREFIX}CONFIG", os.devnull)

    def parse(words: Sequence[str], environment: Mapping[str, object] = {}) -> Settings:
        found: list[Settings] = []

        def load(*arguments: Any) -> None:
            found.append(load_settings(*arguments).settings)
            raise _Parsed

        with monkeypatch.context() as patch:
            for name, value in environment.items():
                assert name.startswith(ENV_PREFIX), f"{name} is no setting of ours"
                patch.setenv(name, str(value))
            patch.setattr(options, "load_settings", load)
            with pytest.raises(_Parsed):
                root.main(list(words), standalone_mode=False)
        return found[0]

    return parse
