"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
from pathlib import Path

from .sources import LUA_AND_PYTHON, ROOT, modules, text_literals

MOST_LINES = 300
"""A longer file wants to be two."""
WIDEST_LUA = 120
"""Columns, as ruff allows Python."""

BAD_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "base_manager", "handler", "info2", "data"}

KEY_LITERAL = "sagellm:"


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_too_long() -> None:
    lengths = {named(path): len(lines_of(path)) for path in LUA_AND_PYTHON}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_line_of_lua_is_too_wide() -> None:
    lua = [path for path in LUA_AND_PYTHON if path.suffix == ".lua"]
    wide = [f"{named(path)}:{n}" for path in lua for n, line in enumerate(lines_of(path), 1) if len(line) > WIDEST_LUA]
    assert wide == []


def test_every_file_has_a_name_that_says_something() -> None:
    words = {path: {path.stem, *path.relative_to(ROOT).parts[:-1]} for path in LUA_AND_PYTHON}
    assert [named(path) for path, its in words.items() if BAD_NAMES & {word.lower() for word in its}] == []


def test_every_file_says_what_it_is_for() -> None:
    texts = {
        module: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for module, path in modules().items()
    }
    assert [module for module, text in texts.items() if not text or not text.splitlines()[0].strip()] == []


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
