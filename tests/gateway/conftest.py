"""What the tests of a gateway share."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from sagellm_control.gateway.fast_path import GatewayFastPath

from ..pool_driver import PoolDriver
from .proposing_gateway import Gateway


@pytest.fixture
async def gateway(pool: PoolDriver) -> AsyncGenerator[Gateway, None]:
    async with GatewayFastPath(pool.store) as fast_path:
        yield Gateway(pool, fast_path)
