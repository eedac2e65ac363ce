"""``up``: what it says when it cannot start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .up_process import control


@pytest.mark.parametrize(
    ("words", "settings", "code", "said"),
    [
        (("--redis-url", "redis://127.0.0.1:1/0"), {}, 1, "Error: no Redis at redis://127.0.0.1:1/0"),
        (("--redis-url", "redis://127.0.0.1:1/0"), {}, 1, "or set --redis-url (the URL is from --redis-url)\n"),
        (
            (),
            {"SAGELLM_CONTROL_REDIS_URL": "redis://127.0.0.1:1/0"},
            2,
            "Error: --data-dir is for an embedded Valkey, and SAGELLM_CONTROL_REDIS_URL names another server: unset",
        ),
        (("--data-dir", "/dev/null/x"), {}, 1, "Error: data folder /dev/null/x: Not a directory; choose another"),
        (("--workers", "2"), {}, 2, "Error: --workers 2: there is 1 engine, and each has one worker\n"),
        (
            ("--engine", "http://a", "--engine", "http://b", "--engine", "http://a"),
            {"SAGELLM_CONTROL_UP_WORKERS": "3"},
            2,
            "Error: SAGELLM_CONTROL_UP_WORKERS 3: there are 2 engines, and each has one worker\n",
        ),
        (("--schedulers", "0"), {}, 2, "Error: --schedulers 0: input should be greater than or equal to 1\n"),
        (
            (),
            {"SAGELLM_CONTROL_GATEWAY_API_KEYS": "/none"},
            1,
            "gateway | Error: --api-keys /none: No such file or directory",
        ),
        (
            ("--schedulers", "2"),
            {"SAGELLM_CONTROL_SCHEDULER_METRICS_PORT": "9100", "SAGELLM_CONTROL_WORKER_METRICS_PORT": "9101"},
            2,
            "Error: port 9101 is asked for twice, by SAGELLM_CONTROL_WORKER_METRICS_PORT and by "
            "SAGELLM_CONTROL_SCHEDULER_METRICS_PORT + 1: choose another\n",
        ),
        (
            ("--port", "9100"),
            {"SAGELLM_CONTROL_SCHEDULER_METRICS_PORT": "9100"},
            2,
            "Error: port 9100 is asked for twice, by --port and by SAGELLM_CONTROL_SCHEDULER_METRICS_PORT: choose",
        ),
        (
            ("--port", "9100", "--engine", "http://engine:9100", "--engine", "http://localhost:9100/v1"),
            {},
            2,
            "Error: --engine http://localhost:9100/v1: that is this system's own gateway; name the engines behind it\n",
        ),
        (
            ("--port", "9100", "--host", "0.0.0.0"),
            {"SAGELLM_CONTROL_WORKER_ENGINE": "http://127.0.0.2:9100"},
            2,
            "Error: SAGELLM_CONTROL_WORKER_ENGINE http://127.0.0.2:9100: that is this system's own gateway; name the",
        ),
        ((), {"SAGELLM_CONTROL_WORKER_PORT": "1"}, 2, "SAGELLM_CONTROL_WORKER_PORT (environment): no such setting"),
    ],
)
def test_what_cannot_work(
    words: tuple[str, ...], settings: dict[str, str], code: int, said: str, tmp_path: Path
) -> None:
    done = control("up", "--port", "0", "--data-dir", str(tmp_path / "store"), *words, **settings)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("up", "--port", "0"), "Using Redis at redis://u:***@127.0.0.1:1/0 ({where}); no embedded server\n"),
        (("requests", "list"), "Error: no Redis at "),
        (("enqueue", "Hello"), "Error: no Redis at "),
    ],
)
@pytest.mark.parametrize("source", ["environment", "file"])
def test_it_is_told_who_named_a_server_that_is_not_there(
    command: tuple[str, ...], told: str, source: str, tmp_path: Path
) -> None:
    url, settings, where = "redis://u:secret@127.0.0.1:1/0", dict[str, str](), "SAGELLM_CONTROL_REDIS_URL"
    if source == "environment":
        settings[where] = url
    else:
        (tmp_path / "our.toml").write_text(f'[redis]\nurl = "{url}"\n')
        settings["SAGELLM_CONTROL_CONFIG"] = str(tmp_path / "our.toml")
        where = f"{tmp_path / 'our.toml'}: redis.url"
    done = control(*command, SAGELLM_CONTROL_UP_DATA_DIR=str(tmp_path / "store"), **settings)
    assert done.returncode == 1
    assert told.format(where=where) in done.stderr
    assert done.stderr.endswith(f"(the URL is from {where})\n")
    assert "secret" not in done.stderr


def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = control("up", "--port", port, "--data-dir", str(tmp_path / "store"))
        assert done.returncode == 1
        assert f"Error: port {port} on 127.0.0.1 is in use; stop the program that listens there" in done.stderr
        assert not (tmp_path / "store").exists()
        for command in ("gateway", "engine"):
            done = control(command, "--port", port)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
            assert f"Error: port {port} on 127.0.0.1 is in use" in done.stderr
