"""``settings`` shows values and sources, hides secrets, and its output is a TOML file."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from sagellm_control.settings import CONFIG_FILE, env_name, load_settings, sections

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
    loaded = load_settings(config=tmp_path / "all.toml")
    assert loaded.settings.model_dump() == before.model_dump()
    assert loaded.origins.keys() == {("worker", "engine"), ("gateway", "host")}, "a default is nobody's choice"


def test_every_setting_is_shown_and_its_line_is_what_a_file_may_say(tmp_path: Path, command: Command) -> None:
    text = command("settings").output
    assert tomllib.loads(text) == {section: {} for section in sections()}
    defaults = load_settings().settings.model_dump(mode="json")
    spoken = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    (tmp_path / "spoken.toml").write_text(spoken)
    assert load_settings(config=tmp_path / "spoken.toml").settings.model_dump(mode="json") == defaults
    unset = {(section, field) for section, fields in defaults.items() for field in fields if fields[field] is None}
    said = {(section, field) for section, fields in tomllib.loads(spoken).items() for field in fields}
    assert said | unset == {(section, field) for section, fields in defaults.items() for field in fields}
    assert all(f"# {field} is not set" in text for _, field in unset)


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


def test_no_example_empties_the_file_that_is_read(command: Command) -> None:
    written = re.findall(r"sagellm-control settings .*> *(\S+)", command("settings", "--help").output)
    assert written
    assert str(CONFIG_FILE) not in written, "the shell empties it before its settings are read"
