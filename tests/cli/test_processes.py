"""The commands that run one process: what they say when they cannot, and how they end."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from sagellm_control.cli.failures import clear_lines
from sagellm_control.embedded import PortInUseError, free_port
from sagellm_control.embedded.http_probe import get
from sagellm_control.gateway.api_keys import ApiKeys

from .conftest import Command
from .up_process import clean_environment, control, eventually

NOBODY = ("--redis-url", "redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    "words",
    [("gateway", "--port", "0"), ("scheduler",), ("worker", "--engine", "http://127.0.0.1:1")],
    ids=lambda words: words[0],
)
def test_without_redis_it_is_one_line(words: tuple[str, ...]) -> None:
    done = control(*words, *NOBODY, "--no-redis-wait")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no Redis at redis://127.0.0.1:1/0")
    assert done.stderr.count("\n") == 1


def test_a_worker_without_an_engine(tmp_path: Path) -> None:
    done = control("worker", *NOBODY)
    assert (done.returncode, done.stderr) == (
        1,
        "Error: no engine to serve: give --engine URL, once for each engine, or --adopt\n",
    )


def test_sigterm_ends_a_process_with_0() -> None:
    port = free_port()
    command = [sys.executable, "-m", "sagellm_control", "engine", "--port", str(port)]
    with subprocess.Popen(command, env=clean_environment()) as engine:
        eventually(lambda: asyncio.run(get("127.0.0.1", port, "/health"))[0] == 200, "it serves")
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(30) == 0


def test_an_engine_says_where_it_listens() -> None:
    words = ("--port", "0", "--model", "a", "--model", "b", "--slots", "3", "--log-format", "json")
    command = [sys.executable, "-m", "sagellm_control", "engine", *words]
    with subprocess.Popen(command, env=clean_environment(), stderr=subprocess.PIPE, text=True) as engine:
        assert engine.stderr is not None
        said = engine.stderr.readline()
        try:
            found = re.search(r"engine listens on http://127\.0\.0\.1:(\d+): a, b, 3 slots", said)
            assert found, said
            assert asyncio.run(get("127.0.0.1", int(found[1]), "/health"))[0] == 200
        finally:
            engine.terminate()


def test_a_new_key_opens_the_gateway(tmp_path: Path, command: Command) -> None:
    made = command("api-key", "--tenant", 'se"arch', "--max-priority", "high", "--weight", "2")
    key = made.stderr.split()[-1]
    assert key not in made.stdout
    assert tomllib.loads(made.stdout)["keys"][0]["max_priority"] == "HIGH"
    (tmp_path / "keys.toml").write_text(made.stdout)
    caller = ApiKeys.read(tmp_path / "keys.toml").find(key)
    assert caller is not None
    assert (caller.tenant, caller.weight, caller.admin) == ('se"arch', 2.0, False)


def test_a_key_for_an_admin(tmp_path: Path, command: Command) -> None:
    made = [command("api-key", "--tenant", "ops", "--admin"), command("api-key", "--tenant", "search")]
    (tmp_path / "keys.toml").write_text("".join(each.stdout for each in made))
    keys = ApiKeys.read(tmp_path / "keys.toml")
    callers = [keys.find(each.stderr.split()[-1]) for each in made]
    assert [caller and (caller.tenant, caller.admin) for caller in callers] == [("ops", True), ("search", False)]


def test_errors_in_a_group_are_lines_too() -> None:
    with pytest.raises(click.ClickException) as caught, clear_lines():
        raise ExceptionGroup("tasks", [ExceptionGroup("more", [PortInUseError(98, "port 1 is in use")])])
    assert caught.value.message == "port 1 is in use"


def test_an_error_that_is_ours_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), clear_lines():
        raise KeyError("bug")
    with pytest.raises(ExceptionGroup), clear_lines():
        raise ExceptionGroup("tasks", [KeyError("bug"), PortInUseError(98, "port 1 is in use")])
