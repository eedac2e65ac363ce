"""A leashed command dies with its parent, keeps its process id, and hands on its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from sagellm_control.embedded.child_process import leashed

WITHIN_S = 10.0


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds."""
    ends = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends, f"not within {WITHIN_S:g} s: {what}"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether the process runs (one that ended and waits to be reaped does not)."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


PARENT = """
import subprocess, sys
from sagellm_control.embedded.child_process import leashed
child = subprocess.Popen(leashed(["sleep", "1000"]), start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_kill_9_of_the_parent_ends_the_command() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        eventually(lambda: "sleep" in command_name(child), "the leash becomes the command")
        os.kill(parent.pid, signal.SIGKILL)
    eventually(lambda: not lives(child), "the command ends with its parent")


def command_name(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as name:
        return name.read()


def test_the_exit_code_and_the_arguments_are_the_commands_own() -> None:
    script = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = subprocess.run(leashed([sys.executable, "-c", script, "--", "a b"]), capture_output=True, text=True)
    assert done.returncode == 7
    assert done.stdout == "['--', 'a b']\n"


def test_a_parent_that_is_gone_before_the_leash_is_on() -> None:
    orphan = leashed(["echo", "ran"])
    orphan[orphan.index("--parent") + 1] = "1"  # not the process that starts it
    done = subprocess.run(orphan, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""


def test_as_a_module_and_what_it_says_when_used_wrongly() -> None:
    module = [sys.executable, "-m", "sagellm_control.embedded.leash"]
    assert subprocess.run([*module, "--", "echo", "ran"], capture_output=True, text=True).stdout == "ran\n"
    empty = subprocess.run(module, capture_output=True, text=True)
    assert empty.returncode == 2
    assert "usage" in empty.stderr
    missing = subprocess.run([*module, "--", "/no/such"], capture_output=True, text=True)
    assert missing.returncode == 127
    assert missing.stderr == "cannot run /no/such: No such file or directory\n"
