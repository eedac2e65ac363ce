"""Engines are started when they are needed, and drained when they are not. ``python examples/library/scaling.py``"""

from __future__ import annotations

import argparse
import asyncio
import sys

from sagellm_control import ControlPlaneManager, ScalingManager
from sagellm_control.scaling import ProcessLauncher, ScalingLimits

COMMAND = [sys.executable, "-m", "sagellm_control", "engine", "--port", "{port}", "--model", "{model}"]


async def main() -> None:
    manager = ControlPlaneManager(health_check_interval_s=0.2)
    launcher = ProcessLauncher(COMMAND, metadata={"max_concurrent_requests": 2})
    scaling = ScalingManager(manager, launcher, ScalingLimits(max_engines=2, up_cooldown_s=0))
    await manager.start()
    try:
        await scaling.scale_up("simulated-1")
        while not manager.healthy_engine_count:
            await asyncio.sleep(0.05)
        for number in range(6):  # four more than there is room for
            await manager.schedule_request(f"request-{number}", "trace", "simulated-1")
        print(scaling.get_scaling_recommendations()["recommendation"])
        async with scaling.running(interval_s=0.1):
            while manager.healthy_engine_count < 2:
                await asyncio.sleep(0.05)
            print(f"{manager.healthy_engine_count} engines")
    finally:
        await launcher.close()
        await manager.stop()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(main())
