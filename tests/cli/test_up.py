"""``up``: what it starts, keeps running and stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from .up_process import Up, clean_environment, control, eventually


def names(up: Up) -> list[str]:
    return sorted(words.rpartition("sagellm_control ")[2] for words in up.children().values())


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_it_starts_restarts_and_stops_all(tmp_path: Path) -> None:
    with Up(tmp_path) as up:
        (valkey,) = (words for words in names(up) if "valkey-server" in words)
        assert names(up) == sorted(["engine", "gateway", "scheduler", "scheduler", "worker", valkey])
        children = up.children()
        for command in ("scheduler", "gateway"):
            (pid, *_) = (pid for pid, words in children.items() if words.endswith(command))
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: gone(pid) and len(up.children()) == len(children), f"{command} is back")  # noqa: B023
        eventually(lambda: up.control("enqueue", "--max-tokens", "1", "Hello").returncode == 0, "it works again")
        last = up.children()
    assert up.process.returncode == 0
    assert "gateway ended (killed by SIGKILL); starting it again in 0.5 s" in up.said
    assert up.said.endswith("Stopped.\n")
    assert "Traceback" not in up.said
    assert all(map(gone, last))
    logs = {path.name for path in (tmp_path / "store" / "logs").iterdir()}
    assert logs == {f"{name}.log" for name in ("engine", "gateway", "scheduler-1", "scheduler-2", "valkey", "worker")}


def test_it_says_how_long_what_waits_is_kept(tmp_path: Path) -> None:
    with Up(tmp_path, "--schedulers", "1", SAGELLM_CONTROL_GATEWAY_ORPHAN_GRACE_S="7") as up:
        assert "What waits is kept: HTTP requests without an Idempotency-Key for 7 s" in up.announced


def test_kill_9_leaves_nothing_and_what_waited_goes_on(tmp_path: Path) -> None:
    slow = {"SAGELLM_CONTROL_ENGINE_SLOTS": "1", "SAGELLM_CONTROL_ENGINE_TPOT_MS": "200"}
    with Up(tmp_path, "--schedulers", "1", **slow) as up:
        redis = up.redis
        asking = [up.start_enqueue("--no-stream", "--max-tokens", "20", f"Hello {n}") for n in range(2)]
        for process in asking:
            assert process.stderr is not None
            process.stderr.readline()  # it is accepted
        children = up.children()
        up.process.kill()
        up.process.wait()
        eventually(lambda: all(map(gone, children)), "nothing is left")
    with Up(tmp_path, "--schedulers", "1") as up:
        assert up.redis == redis  # the same port, so those who wait find it again
        for process in asking:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
            assert "completed by" in said


def test_signals_at_once_count_as_one(tmp_path: Path) -> None:
    with Up(tmp_path, "--schedulers", "1") as up:
        # As from a terminal: the shell script that runs us passes on what we have got already.
        up.process.send_signal(signal.SIGINT)
        up.process.send_signal(signal.SIGTERM)
    assert up.process.returncode == 0
    assert "at once." not in up.said.replace("Ctrl-C again stops at once.", "")


def test_it_goes_on_and_stops_without_a_terminal(tmp_path: Path) -> None:
    """The one that ``nohup`` started it from was closed: nothing can be said any more."""
    up = Up(tmp_path, "--schedulers", "1")
    terminal, said = os.pipe()
    inherited = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        up.start(said)
    finally:
        signal.signal(signal.SIGHUP, inherited)
    os.close(said)
    try:
        assert up.gets_ready()
        os.close(terminal)
        up.process.send_signal(signal.SIGHUP)
        (worker, *_) = (pid for pid, words in up.children().items() if words.endswith("worker"))
        count = len(up.children())
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: gone(worker) and len(up.children()) == count, "the worker is back")
        children = up.children()
        up.process.terminate()
        assert up.process.wait(60) == 0
    finally:
        up.process.kill()
        up.process.communicate()
    assert all(map(gone, children))


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with Up(tmp_path, "--schedulers", "1") as up, up.start_enqueue("--max-tokens", "100000", "Hello") as asking:
        assert asking.stdout is not None
        assert asking.stdout.read(1)
        up.process.send_signal(signal.SIGINT)
        heard = time.monotonic()
        eventually(lambda: time.monotonic() > heard + 0.6, "a second one counts")
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(10) == 0
        asking.kill()
    assert "\nStopping at once.\n" in up.said
    assert up.said.endswith("\nStopped.\n")


def test_one_system_a_folder(tmp_path: Path) -> None:
    with Up(tmp_path, "--schedulers", "1"):
        second = control("up", "--port", "0", "--data-dir", str(tmp_path / "store"))
        assert second.returncode == 1
        assert "is in use by the server with pid" in second.stderr


def test_an_own_server_and_real_engines(tmp_path: Path) -> None:
    with Up(tmp_path, "--schedulers", "1", "--model", "tiny") as first:
        (engine,) = json.loads(first.control("engines", "list", "--json").stdout)
        (tmp_path / "second").mkdir()
        words = ("--redis-url", first.redis, "--redis-namespace", "other", "--engine", engine["url"])
        with Up(tmp_path / "second", "--schedulers", "1", *words) as second:
            assert names(second) == ["gateway", "scheduler", "worker"]
            assert f"--redis-url {first.redis} --redis-namespace other" in second.announced
            assert f"Using Redis at {first.redis} (--redis-url); no embedded server\n" in second.said
            done = control("enqueue", "--redis-url", first.redis, "--redis-namespace", "other", "Hello")
            assert done.returncode == 0, done.stderr


def test_several_workers_share_the_engines(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [one.getsockname()[1], other.getsockname()[1]]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    engines = [
        subprocess.Popen(
            [sys.executable, "-m", "sagellm_control", "engine", "--port", str(port)], env=clean_environment()
        )
        for port in ports
    ]
    with engines[0], engines[1]:
        words = [word for url in [*urls, urls[0]] for word in ("--engine", url)]
        with Up(tmp_path, "--schedulers", "1", "--workers", "2", *words) as up:
            assert names(up).count("worker") == 2

            def served() -> dict[str, str]:
                views = json.loads(up.control("engines", "list", "--json").stdout)
                return {view["url"]: view["worker"] for view in views if view["state"] == "READY"}

            eventually(lambda: served().keys() == set(urls), "both are served")
            assert len(set(served().values())) == 2
            logs = {path.name for path in (tmp_path / "store" / "logs").glob("worker*")}
            assert logs == {"worker-1.log", "worker-2.log"}
        for engine in engines:
            engine.terminate()


def test_an_engine_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    words = ("--schedulers", "1", "--engine", url, "--ready-within-s", "10")
    with Up(tmp_path, *words) as up:
        eventually(lambda: f"No engine is ready yet; waiting for {url}" in up.said, "it says so")
        engine = subprocess.Popen(
            [sys.executable, "-m", "sagellm_control", "engine", "--port", str(port)], env=clean_environment()
        )
        with engine:
            eventually(lambda: "is ready: simulated-1, 16 slots" in up.said, "it is found")
            engine.terminate()


def test_an_engine_that_stays_drained_is_said_to(tmp_path: Path) -> None:
    with Up(tmp_path, "--schedulers", "1") as up:
        (engine,) = json.loads(up.control("engines", "list", "--json").stdout)
        up.control("engines", "drain", engine["engine_id"])
    note = f"drained: `sagellm-control engines drain {engine['engine_id']} --undo` gives it requests again"
    with Up(tmp_path, "--schedulers", "1", "--ready-within-s", "3600") as up:
        assert "   model MODEL, 0 of 1 engine\n" in up.announced
        assert note in up.control("engines", "list").stdout
        undo = f"sagellm-control engines drain {engine['engine_id']} --undo --redis-url {up.redis}\n"
        eventually(lambda: f"is drained, and gets requests again after: {undo}" in up.said, "it says so")
        eventually(lambda: re.search(rf"worker \| .* gets no requests for simulated-1: {note}\n", up.said), "the log")
        up.control("engines", "drain", engine["engine_id"], "--undo")
        eventually(lambda: "is ready: simulated-1, 16 slots" in up.said, "it is given requests")


def test_anothers_engine_in_the_same_redis_is_not_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "second").mkdir()
    with Up(tmp_path, "--schedulers", "1", "--model", "tiny") as first:
        words = ("--redis-url", first.redis, "--schedulers", "1", "--engine", url, "--ready-within-s", "10")
        with Up(tmp_path / "second", *words) as second:
            assert "   model MODEL, 0 of 1 engine\n" in second.announced
            eventually(lambda: f"No engine is ready yet; waiting for {url}" in second.said, "it says so")
            ours = [sys.executable, "-m", "sagellm_control", "engine", "--port", str(port), "--model", "big"]
            with subprocess.Popen(ours, env=clean_environment()) as engine:
                eventually(lambda: " is ready: big, 16 slots" in second.said, "it is found")
                engine.terminate()
            assert "is ready: tiny" not in second.said
