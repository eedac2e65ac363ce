"""Every example that is called with --help, or without what it needs, says how it is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path for pattern in ("*.py", "*.sh") for path in FOLDER.rglob(pattern))
NEEDS_NOTHING = {"custom_placement.py", "scaling.py"}
"""Without arguments they run."""


@pytest.fixture
def plain_environment(tmp_path: Path) -> dict[str, str]:
    """As it is without the ``test`` extra: no ``openai``."""
    (tmp_path / "openai.py").write_text("raise ModuleNotFoundError(\"No module named 'openai'\", name='openai')\n")
    paths = (str(tmp_path), os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.mark.parametrize("words", [["--help"], []], ids=["help", "nothing"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_usage(script: Path, words: list[str], plain_environment: dict[str, str]) -> None:
    command = [sys.executable] if script.suffix == ".py" else ["bash"]
    done = subprocess.run(
        [*command, str(script), *words], env=plain_environment, capture_output=True, text=True, timeout=60
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    if words or script.name not in NEEDS_NOTHING:
        assert script.name in said
        assert done.returncode in (0, 2)
    else:
        assert done.returncode == 0
