"""Every example that is called with --help, or without what it needs, says how it is called."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(FOLDER.rglob("*.py"))
SHELL_SCRIPTS = sorted(FOLDER.rglob("*.sh"))
NEEDS_NOTHING = {"custom_placement.py", "scaling.py"}
"""Without arguments they run."""
WORDS = pytest.mark.parametrize("words", [["--help"], []], ids=["help", "nothing"])


@WORDS
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_usage(
    script: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)  # as it is without the ``test`` extra
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    code: object = 0
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as left:
        code = left.code
    if words or script.name not in NEEDS_NOTHING:
        assert script.name in "".join(capfd.readouterr())
        assert code in (0, 2)
    else:
        assert code == 0


@WORDS
@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_usage_of_a_shell_script(script: Path, words: list[str]) -> None:
    done = subprocess.run(["bash", str(script), *words], capture_output=True, text=True, timeout=60)
    assert script.name in done.stdout + done.stderr
    assert done.returncode in (0, 2)
