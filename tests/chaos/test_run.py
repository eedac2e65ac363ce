"""The program itself: a short run as a command, and how it is called."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from sagellm_control.chaos.report import MUST_BE_ZERO
from sagellm_control.chaos.system import SystemDidNotStart
from sagellm_control.cli.root import root

SECONDS = 12
STARTED = "processes are ready"
WORDS = [sys.executable, "-m", "sagellm_control", "chaos"]


def clean_environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAGELLM_CONTROL_")}
    return kept | {"TMPDIR": str(folder)}


def left_running(folder: Path) -> list[str]:
    """Processes that were started with ``clean_environment(folder)``, by their command lines."""
    found: list[str] = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                environment = (process / "environ").read_bytes().split(b"\0")
                if f"TMPDIR={folder}".encode() in environment:
                    found.append((process / "cmdline").read_bytes().decode().replace("\0", " "))
            except OSError:
                continue  # it has ended meanwhile, or is not ours
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="it looks for processes left behind in /proc")
def test_a_run_loses_doubles_and_leaves_nothing(tmp_path: Path) -> None:
    sizes = "--schedulers 2 --workers 3 --engines 3 --clients 10"
    words = f"--seconds {SECONDS} --seed 11 --lease-s 2 --every-s 0.6 {sizes}".split()
    done = subprocess.run(
        [*WORDS, *words, "--json", str(tmp_path / "figures.json")],
        capture_output=True,
        text=True,
        timeout=110,
        env=clean_environment(tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {name: figures[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0)
    # It was a run that could have gone wrong.
    assert figures["kills"] >= 3
    assert figures["finished"] >= 20
    assert figures["accepted"] >= figures["finished"] + figures["cancelled"]
    assert figures["seed"] == 11
    assert "passed (seed 11)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "its folder is gone"
    assert left_running(tmp_path) == []


def test_ctrl_c_stops_everything_in_order(tmp_path: Path) -> None:
    sizes = [word for kind in ("gateways", "schedulers", "workers", "engines") for word in (f"--{kind}", "1")]
    process = subprocess.Popen(
        [*WORDS, "--seconds", "600", "--every-s", "600", *sizes],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(tmp_path),
    )
    with process:
        assert process.stderr is not None
        said = ""
        while STARTED not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        rest = process.stderr.read()
        assert process.wait(60) == 130, rest
    assert "Stopping all processes in order" in rest
    assert "Traceback" not in rest
    assert "had to be killed" not in rest
    assert time.monotonic() - began < 40
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seconds", "0"), "Invalid value for '--seconds'"),
        (("--workers", "0"), "Invalid value for '--workers'"),
        (("--json", "/none/figures.json"), "'--json': there is no folder /none that can be written to"),
        (("--folder", "/etc"), "--folder /etc: it is not empty"),
    ],
)
def test_what_cannot_work_is_told_before_anything_starts(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = subprocess.run([*WORDS, *words], capture_output=True, text=True, timeout=60, env=clean_environment(tmp_path))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_does_not_start_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise SystemDidNotStart("worker-1 ended: Error: a reason")

    monkeypatch.setattr("sagellm_control.chaos.run.run_chaos", fail)
    result = CliRunner().invoke(root, ["chaos", "--folder", str(tmp_path / "kept")])
    assert result.exit_code == 1
    assert f"Error: worker-1 ended: Error: a reason; logs are in {tmp_path / 'kept'}" in result.stderr
    assert (tmp_path / "kept").is_dir()
