"""The file of API keys changes while the gateway runs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sagellm_control.gateway.api_keys import ApiKeysUnreadable, hash_key
from sagellm_control.gateway.api_keys_file import ApiKeysFile


def entry(key: str) -> str:
    return f'[[keys]]\nsha256 = "{hash_key(key)}"\ntenant = "x"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(entry("sk-1"))
    return path


def known(keys: ApiKeysFile) -> list[str]:
    return [key for key in ("sk-1", "sk-2") if keys.find(key)]


def test_a_key_is_added_and_one_is_taken_away(path: Path) -> None:
    keys = ApiKeysFile(path)
    with path.open("a") as file:
        file.write(entry("sk-2"))
    keys.look()
    assert known(keys) == ["sk-1", "sk-2"]
    path.write_text(entry("sk-2"))
    keys.look()
    assert known(keys) == ["sk-2"]


def test_one_that_is_replaced(path: Path) -> None:
    keys = ApiKeysFile(path)
    other = path.with_suffix(".new")
    other.write_text(entry("sk-2"))
    other.replace(path)
    keys.look()
    assert known(keys) == ["sk-2"]


@pytest.mark.parametrize("text", ["[[keys", "", '[[keys]]\ntenant = "x"\n', None])
def test_one_that_cannot_be_used_is_said_once_and_changes_nothing(
    path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keys = ApiKeysFile(path)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    for _ in range(3):
        keys.look()
    assert known(keys) == ["sk-1"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    path.write_text(entry("sk-2"))
    keys.look()
    assert known(keys) == ["sk-2"]


def test_one_that_has_not_changed_is_not_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ApiKeysFile(path).look()
    assert not caplog.records


def test_one_that_cannot_be_used_at_the_start(path: Path) -> None:
    path.unlink()
    with pytest.raises(ApiKeysUnreadable):
        ApiKeysFile(path)
