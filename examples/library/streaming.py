"""An answer as it is made. ``python examples/library/streaming.py 8100``, with an engine on that port."""

from __future__ import annotations

import argparse
import asyncio

from sagellm_protocol import ChatMessage, Request, StreamEventDelta, StreamEventEnd

from sagellm_control import ControlPlaneManager


async def main(port: int) -> None:
    manager = ControlPlaneManager()
    await manager.start()
    try:
        manager.register_engine("engine-1", "simulated-1", "127.0.0.1", port)
        while not manager.healthy_engine_count:
            await asyncio.sleep(0.05)
        request = Request(
            request_id="request-1",
            trace_id="trace-1",
            model="simulated-1",
            messages=[ChatMessage(role="user", content="Hello!")],
            max_tokens=16,
            stream=True,
        )
        async for event in manager.stream_request(request):
            match event:
                case StreamEventDelta():
                    print(event.content, end="", flush=True)
                case StreamEventEnd():
                    print(f"\n[{event.finish_reason}, from {event.engine_id}]")
                case _:
                    pass
    finally:
        await manager.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="of an engine on this machine")
    asyncio.run(main(parser.parse_args().port))
