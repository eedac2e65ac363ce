"""What a benchmark leaves is JSON, also where something could not be measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def strict(path: Path) -> Any:
    """What is in a file of JSON: unlike Python's reader, others take no NaN."""

    def refuse(word: str) -> None:
        pytest.fail(f"{path.name}: {word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_figure_of_nothing_is_null(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT)
    reports, figures = importlib.import_module("benchmarks.report"), importlib.import_module("benchmarks.figures")
    nothing, whole = figures.percentile([], 99), figures.percentile([1.5], 99)
    report = reports.Report("latency", {"seconds": 2.0})
    report.results = {"late_ms": nothing, "loads": [{"p99_ms": whole, "spread": figures.Spread.of([nothing]).json()}]}
    report.targets = [reports.Target("added p50", nothing, 3.0, True, "ms")]
    report.finish(tmp_path / "r.json")
    written = strict(tmp_path / "r.json")
    spread = {"median": None, "least": None, "most": None}
    assert written["results"] == {"late_ms": None, "loads": [{"p99_ms": 1.5, "spread": spread}]}
    assert [(target["value"], target["met"]) for target in written["targets"]] == [(None, False)]


def test_the_kept_results_are_json() -> None:
    kept = sorted((ROOT / "benchmarks/results").glob("*.json"))
    assert kept
    for path in kept:
        assert strict(path)["benchmark"] == path.stem
