"""Two managers on one Redis: what one registers the other sees and uses.

sagellm-control scheduler --redis-url redis://127.0.0.1:6379/0
sagellm-control worker --adopt --redis-url redis://127.0.0.1:6379/0
sagellm-control engine --port 8100
python examples/library/shared_mode.py redis://127.0.0.1:6379/0 8100
"""

from __future__ import annotations

import argparse
import asyncio

from sagellm_protocol import Request

from sagellm_control import ControlPlaneManager, EngineState


async def main(redis_url: str, port: int) -> None:
    here, there = ControlPlaneManager(redis_url=redis_url), ControlPlaneManager(redis_url=redis_url)
    await here.start()
    await there.start()
    try:
        here.register_engine("engine-1", "simulated-1", "127.0.0.1", port)
        while "engine-1" not in [engine.engine_id for engine in there.list_engines(EngineState.READY)]:
            await asyncio.sleep(0.05)
        request = Request(
            request_id="request-1", trace_id="t", model="simulated-1", prompt="Hello!", max_tokens=16, stream=False
        )
        print((await there.execute_request(request)).output_text)
        here.unregister_engine("engine-1")
    finally:
        await here.stop()
        await there.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("redis_url", help="of the Redis that both managers share")
    parser.add_argument("port", type=int, help="of an engine on this machine")
    asyncio.run(main(**vars(parser.parse_args())))
