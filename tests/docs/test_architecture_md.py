"""docs/architecture.md: the map has every folder, and every step."""

from __future__ import annotations

import re

from ..architecture.sources import ROOT, STEPS

TEXT = (ROOT / "docs/architecture.md").read_text()
FOLDERS = TEXT.partition("## The folders")[2].partition("```\n")[2].partition("```")[0]
PARTS = re.findall(r"^  (\S.*?)(?: {2}|$)", FOLDERS, re.MULTILINE)
"""What stands at the left of its lines."""


def test_every_folder_and_module_of_the_control_package() -> None:
    named = {name.strip().removesuffix("/") for part in PARTS for name in part.split(",")}
    there = {path.stem for path in (ROOT / "control/sagellm_control").iterdir() if path.suffix in ("", ".py")}
    assert sorted(there - {"__init__", "__main__", "__pycache__"} - named) == []


def test_every_step() -> None:
    steps = {path.stem for path in STEPS.glob("*.lua")} - {"prelude", "prelude_queue"}
    assert [name for name in sorted(steps) if not re.search(rf"`(store/steps/)?{name}`", TEXT)] == []
