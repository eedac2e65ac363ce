"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .sources import LUA_AND_PYTHON, ROOT, modules, text_literals

MOST_LINES = 300
"""A longer file wants to be two."""
WIDEST_LUA = 120
"""Columns, as ruff allows Python."""

BAD_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "base_manager", "handler", "info2", "data"}

KEY_LITERAL = "sagellm:"


@pytest.mark.parametrize("path", LUA_AND_PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_not_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", [path for path in LUA_AND_PYTHON if path.suffix == ".lua"], ids=lambda path: path.name)
def test_a_line_of_lua_is_not_too_wide(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, start=1) if len(line) > WIDEST_LUA] == []


@pytest.mark.parametrize("path", LUA_AND_PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_a_name_that_says_something(path: Path) -> None:
    assert not BAD_NAMES & {path.stem.lower(), *(part.lower() for part in path.relative_to(ROOT).parts[:-1])}


@pytest.mark.parametrize("module", modules())
def test_a_file_says_what_it_is_for(module: str) -> None:
    documentation = ast.get_docstring(ast.parse(modules()[module].read_text(encoding="utf-8")))
    assert documentation, "no docstring"
    assert documentation.splitlines()[0].strip(), "the docstring starts with an empty line"


def test_key_names_are_made_in_one_module() -> None:
    keys = "sagellm_control.wire.keys"
    wrong = [
        f"{module}:{line}: {text!r}"
        for module, path in modules().items()
        if module != keys
        for line, text in text_literals(path)
        if KEY_LITERAL in text
    ]
    assert wrong == []


def test_the_namespace_is_written_once() -> None:
    # ``RedisSettings`` repeats it as its default: see that they agree.
    from sagellm_control.store.settings import RedisSettings
    from sagellm_control.wire.keys import DEFAULT_NAMESPACE

    assert RedisSettings().namespace == DEFAULT_NAMESPACE
