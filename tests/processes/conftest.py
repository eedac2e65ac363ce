"""Fixtures of the tests with real processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from sagellm_control.store.settings import RedisSettings

from .real_processes import RealProcesses, real_processes


@pytest.fixture
async def processes(redis_settings: RedisSettings, tmp_path: Path) -> AsyncGenerator[RealProcesses, None]:
    """Real processes on the test's server, in its namespace."""
    async with real_processes(redis_settings, tmp_path) as processes:
        yield processes
