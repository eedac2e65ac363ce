"""Each promise in docs/guarantees.md names tests, and each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "guarantees.md"
TEXT = PAGE.read_text(encoding="utf-8")
NAMED = re.findall(r"`([a-z_0-9/]+\.py)::(test_\w+)`", TEXT)
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ")][2:]


def test_there_are_promises() -> None:
    assert len(ROWS) > 20
    assert len(NAMED) > 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_promise_names_a_test(row: str) -> None:
    promise, _settings, shown_by = row.strip("|").split("|")
    assert promise.strip()
    assert "::test_" in shown_by


@pytest.mark.parametrize(("file", "function"), NAMED)
def test_the_test_is_there(file: str, function: str) -> None:
    path = TESTS / file
    assert path.is_file(), f"there is no tests/{file}"
    assert re.search(rf"^(async )?def {function}\(", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_settings_are_settings() -> None:
    from sagellm_control.gateway.settings import GatewaySettings
    from sagellm_control.scheduler.settings import SchedulerSettings
    from sagellm_control.store.settings import RedisSettings
    from sagellm_workers.settings import WorkerSettings

    sections = {
        "gateway": GatewaySettings,
        "scheduler": SchedulerSettings,
        "redis": RedisSettings,
        "worker": WorkerSettings,
    }
    for section, name in re.findall(r"`(gateway|scheduler|redis|worker)\.([a-z_]+)(?!…)\b`", TEXT):
        assert name in sections[section].model_fields, f"there is no setting {section}.{name}"
