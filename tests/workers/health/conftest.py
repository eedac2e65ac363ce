"""An engine that is watched."""

from __future__ import annotations

import pytest

from .watched_engine import Engine, RememberingLease


@pytest.fixture
def lease() -> RememberingLease:
    return RememberingLease()


@pytest.fixture
def engine() -> Engine:
    return Engine()
