"""A policy of one's own: paying tenants first. ``python examples/library/custom_policy.py 8100``"""

from __future__ import annotations

import argparse
import asyncio

from sagellm_protocol import Request

from sagellm_control import ControlPlaneManager
from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.wire.request import Arrival


class PayingFirst:
    """The others count as come ten seconds later, so they are served too."""

    def handicap(self, request: Arrival, forecast: Forecast) -> float:
        return 0.0 if request.tenant == "paying" else 10_000.0


async def main(port: int) -> None:
    manager = ControlPlaneManager(scheduling_policy=PayingFirst())
    await manager.start()
    try:
        one_at_a_time = {"max_concurrent_requests": 1}
        manager.register_engine("engine-1", "simulated-1", "127.0.0.1", port, metadata=one_at_a_time)
        while not manager.healthy_engine_count:
            await asyncio.sleep(0.05)

        async def ask(tenant: str, number: int) -> None:
            request = Request(
                request_id=f"{tenant}-{number}",
                trace_id="t",
                model="simulated-1",
                prompt="Hello!",
                max_tokens=4,
                stream=False,
                metadata={"tenant": tenant},
            )
            await manager.execute_request(request)
            print(request.request_id)

        async with asyncio.TaskGroup() as tasks:
            for tenant in ("other", "paying"):
                for number in range(3):
                    tasks.create_task(ask(tenant, number))
    finally:
        await manager.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="of an engine on this machine")
    asyncio.run(main(parser.parse_args().port))
