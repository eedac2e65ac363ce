"""A placement of one's own: fill one engine before the next. ``python examples/library/custom_placement.py``"""

from __future__ import annotations

import argparse
import asyncio

from sagellm_control import ControlPlaneManager
from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.open_engines import OpenEngines
from sagellm_control.wire.request import Arrival


class FillOneFirst:
    """The fullest engine that has room, so that the others can be switched off."""

    name = "fill_one_first"

    def choose(self, request: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float) -> str | None:
        fullest = None
        for engine in engines.by_load(request):
            fullest = engine
        return fullest


async def main() -> None:
    manager = ControlPlaneManager(routing_strategy=FillOneFirst())
    ready = {"pre_verified_healthy": True, "max_concurrent_requests": 2}
    for number in range(3):
        manager.register_engine(f"engine-{number}", "a-model", "127.0.0.1", 8100 + number, metadata=ready)
    for number in range(4):
        decision = await manager.schedule_request(f"request-{number}", "trace", "a-model")
        print(decision.engine_id)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(main())
