"""``settings`` shows values and sources, hides secrets, and its output is a TOML file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from sagellm_control.settings import env_name, load_settings

from .conftest import Command


def test_the_output_is_a_toml_file_that_means_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv(env_name("worker", "engine"), "http://a:1,http://b:2")
    monkeypatch.setenv(env_name("gateway", "host"), 'a "strange"\tname')
    text = command("settings").output
    before = load_settings().settings
    monkeypatch.delenv(env_name("worker", "engine"))
    monkeypatch.delenv(env_name("gateway", "host"))
    assert tomllib.loads(text)["worker"]["engine"] == ["http://a:1", "http://b:2"]
    (tmp_path / "all.toml").write_text(text)
    assert load_settings(config=tmp_path / "all.toml").settings.model_dump() == before.model_dump()


def test_sources_and_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    (tmp_path / "c.toml").write_text("[gateway]\nport = 9\n")
    monkeypatch.setenv(env_name("redis", "url"), "redis://me:s3cret@host/0")
    monkeypatch.setenv(env_name("worker", "api_key"), "s3cret")
    result = command("settings", "--json", "--config", "c.toml")
    shown = json.loads(result.output)
    assert shown["gateway"]["port"]["value"] == 9
    assert shown["gateway"]["port"]["source"] == "file (c.toml: gateway.port)"
    assert shown["gateway"]["host"]["source"] == "default"
    assert shown["redis"]["url"]["value"] == "redis://me:***@host/0"
    assert shown["redis"]["url"]["source"] == f"environment ({env_name('redis', 'url')})"
    assert "s3cret" not in result.output + command("settings").output
