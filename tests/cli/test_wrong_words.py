"""Every command says in a line or two what is wrong with its words, and shows no traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from types import ModuleType

import pytest

from sagellm_control.cli import main
from sagellm_control.cli.failures import Problems, clear_lines

from .conftest import Command
from .up_process import clean_environment

PLAY = ("simulate", "--synthetic", "poisson", "--requests", "20")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("enqueue --timeout nan x", "'nan' is no finite number"),
        ("enqueue --timeout 1e300 x", "0.001<=x<=86400"),
        ("enqueue --max-tokens 99999999999 x", "1<=x<=2147483647"),
        ("api-key --tenant x --weight nan", "no finite number"),
        ("api-key --tenant x --weight 0.00001", "0.0001<=x<=1000"),
        (f"api-key --tenant {'x' * 65}", "1 to 64 characters"),
        ("dead retry", "give the entries"),
        ("dead drop --all 1-1", "give the entries"),
        ("dead list --before 99999999999999999999999-0", "is no entry"),
        ("chaos --seconds nan", "no finite number"),
        ("chaos --json /nowhere/x", "there is no folder /nowhere that can be written to"),
        ("chaos --folder /dev/null/x --seconds 1", "--folder /dev/null/x: it cannot be made"),
        ("worker --engine http://x:99999", "a port from 1 to 65535"),
        ("worker --engine http://", "it needs a host"),
        ("gateway --host 192.0.2.1 --port 0", "choose another address with --host"),
    ],
    ids=lambda text: text[:40],
)
def test_wrong_words(words: str, says: str, command: Command) -> None:
    done = command(*words.split())
    assert done.exit_code in (1, 2), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--rate nan", "no finite number"),
        ("--rate 1 --json /nowhere/x", "there is no folder /nowhere"),
        ("--rate 1 --plot /nowhere/x", "there is no folder /nowhere"),
        ("--rate 1 --set nope=1", "--set: unknown setting 'nope': use one of policy, placement"),
        ("--rate 1 --set inner=priority", "--set: inner must be 'fifo', 'slo_aware' or 'shortest'"),
    ],
)
def test_wrong_words_of_the_simulator(words: str, says: str, command: Command) -> None:
    done = command(*PLAY, *words.split())
    assert done.exit_code == 2, done.stderr
    assert says in done.stderr


@pytest.mark.parametrize(
    ("words", "text", "what"),
    [
        (("\udcff\udcfe",), None, "the prompt"),
        ((), b"\xff\xfe", "the prompt"),
        (("--system", "\udcff", "Hello"), None, "--system"),
        (("--tenant", "\udcff", "Hello"), None, "--tenant"),
        (("--model", "\udcff", "Hello"), None, "--model"),
    ],
)
def test_what_is_asked_has_to_be_text(words: tuple[str, ...], text: bytes | None, what: str, command: Command) -> None:
    done = command("enqueue", *words, text=text)
    assert done.exit_code == 2, done.stderr
    assert done.stderr == f"Error: {what} is not UTF-8: convert it, e.g. with `iconv -f latin1 -t utf-8`\n"


def test_a_pipe_has_to_hold_text() -> None:
    words = [sys.executable, "-m", "sagellm_control", "enqueue"]
    done = subprocess.run(words, input=b"\xff\xfe", capture_output=True, env=clean_environment(LC_ALL="C.UTF-8"))
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr.decode()
    assert done.stderr.startswith(b"Error: the prompt is not UTF-8: convert it")


@pytest.mark.parametrize(
    ("text", "says"), [(r'{"prompt": "\ud800"}', "surrogates"), ('{"seed": 99999999999999999999}', "64-bit")]
)
def test_a_whole_request_has_to_be_one_that_can_be_sent(text: str, says: str, command: Command) -> None:
    done = command("enqueue", "--json", "-", text=text)
    assert done.exit_code == 2, done.stderr
    assert "Error: --json: " in done.stderr
    assert says in done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_file_that_takes_nothing(number: int) -> None:
    with pytest.raises(Problems, match=f"^{os.strerror(number)}: notes$"), clear_lines():
        raise OSError(number, os.strerror(number), "notes")


def test_ctrl_c_before_the_command_has_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "sagellm_control.cli.root", Interrupted("root"))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code, capsys.readouterr().err) == (130, "")
