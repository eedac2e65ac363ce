"""The help texts teach: what a command is for, examples, and each flag with default, bounds and variable."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from sagellm_control.cli.options import FlagsOf, Loaded, takes_settings
from sagellm_control.cli.root import root
from sagellm_control.gateway.request_ids import new_id
from sagellm_control.settings import Settings

from .conftest import Command


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


@pytest.mark.parametrize("path", list(commands(root)), ids=" ".join)
def test_every_command_has_a_text_and_examples(path: tuple[str, ...], command: Command) -> None:
    result = command(*path, "--help")
    assert result.exit_code == 0, result.output
    assert "Example" in result.output
    assert f"sagellm-control {' '.join(path)}" in result.output.partition("Example")[2]


def test_the_first_help_names_all_commands_in_the_order_of_need(command: Command) -> None:
    listed = command("--help").output.partition("Commands:")[2]
    assert re.findall(r"^  (\S+)", listed, re.M) == [
        *("up", "gateway", "scheduler", "worker", "engine"),
        *("enqueue", "engines", "requests", "policy", "dead", "api-key", "settings", "simulate", "chaos"),
    ]


@pytest.mark.parametrize("section", ["gateway", "scheduler", "worker", "engine"])
def test_a_process_has_a_flag_for_each_of_its_settings(section: str, command: Command) -> None:
    text = re.sub(r"\s+", "", command(section, "--help").output)
    for option in FlagsOf(section, "").options():
        assert option.flag in text
        assert f"env:SAGELLM_CONTROL_{section.upper()}_{option.field.upper()}" in text
    assert "--log-level[debug|info|warning|error]" in text


def test_a_flags_text_has_default_and_bounds(command: Command) -> None:
    text = re.sub(r"\s+", " ", command("gateway", "--help").output)
    assert "[default: 8000; >=0, <=65535; env: SAGELLM_CONTROL_GATEWAY_PORT]" in text
    assert "<=536870912; env: SAGELLM_CONTROL_GATEWAY_MAX_BODY_BYTES]" in text
    assert "--redis-url" in text
    assert "--redis-namespace" in text


@pytest.mark.parametrize("path", [path for path in commands(root) if path[0] in ("requests", "dead")], ids=" ".join)
def test_examples_have_the_id_of_a_request_and_not_the_engines(path: tuple[str, ...], command: Command) -> None:
    assert "cmpl-" not in command(*path, "--help").output
    text = re.sub(r"\s+", " ", command(path[0], "--help").output)
    assert "ID is in the header X-Request-ID of its answer" in text
    assert re.search(rf"\b{'[0-9a-f]' * len(new_id())}\b", text)


def test_what_is_retried_can_be_read_where_the_help_says(command: Command) -> None:
    text = command("dead", "retry", "--help").output
    assert "GET /v1/requests/ID/result" in text
    assert "requests show" not in text


def test_a_repeated_flag_keeps_its_unit(command: Command) -> None:
    text = command("gateway", "--help").output
    assert re.search(r"--class-max-waiting-bytes\s", text)
    assert re.search(r"--class-max-waiting\s", text)


def test_a_repeated_flag_makes_a_list() -> None:
    urls = ["http://a:1", "http://b:2"]
    seen: list[Settings] = []

    @click.command()
    @takes_settings(FlagsOf("worker", "Worker"))
    def probe(loaded: Loaded) -> None:
        seen.append(loaded.settings)

    probe.main(["--engine", urls[0], "--engine", urls[1], "--trust-env"], standalone_mode=False)
    assert seen[0].worker.engine == urls
    assert seen[0].worker.trust_env is True


def test_bad_settings_are_lines_and_exit_code_2(command: Command) -> None:
    result = command("gateway", "--port", "70000", "--max-waiting", "0")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Error: --port 70000: input should be less than or equal to 65535",
        "Error: --max-waiting 0: input should be greater than or equal to 1",
    ]
