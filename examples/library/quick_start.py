"""The quick start: a manager, an engine, one answer. Its state lives in this process.

sagellm-control engine --port 8100            # in another terminal: an engine without a model
python examples/library/quick_start.py 8100
"""

from __future__ import annotations

import argparse
import asyncio

from sagellm_protocol import Request

from sagellm_control import ControlPlaneManager


async def main(port: int) -> None:
    manager = ControlPlaneManager(scheduling_policy="fifo", routing_strategy="least_loaded")
    await manager.start()
    try:
        manager.register_engine("engine-1", "simulated-1", "127.0.0.1", port)
        while not manager.healthy_engine_count:
            await asyncio.sleep(0.05)

        decision = await manager.schedule_request("request-1", "trace-1", "simulated-1", prompt="Hello!")
        print(decision.reason)
        assert decision.engine_id is not None
        manager.complete_request("request-1", decision.engine_id)

        request = Request(
            request_id="request-2",
            trace_id="trace-2",
            model="simulated-1",
            prompt="Hello!",
            max_tokens=16,
            stream=False,
            metadata={"priority": "HIGH", "slo_deadline_ms": 2000},
        )
        response = await manager.execute_request(request)
        print(response.output_text)
    finally:
        await manager.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, help="of an engine on this machine")
    asyncio.run(main(parser.parse_args().port))
