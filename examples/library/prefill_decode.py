"""Prefill on one engine, decode on another. ``python examples/library/prefill_decode.py 8100 8101``

With vLLM both engines run with a KV connector; the control plane passes the ``kv_transfer_params`` from one to the
other.
"""

from __future__ import annotations

import argparse
import asyncio

from sagellm_protocol import ChatMessage, Request

from sagellm_control import ControlPlaneManager


async def main(prefill_port: int, decode_port: int) -> None:
    manager = ControlPlaneManager()
    await manager.start()
    try:
        for kind, port in (("prefilling", prefill_port), ("decoding", decode_port)):
            manager.register_engine(kind, "simulated-1", "127.0.0.1", port, metadata={"instance_type": kind})
        while manager.healthy_engine_count < 2:
            await asyncio.sleep(0.05)
        print(manager.get_status()["engine_types"])
        request = Request(
            request_id="request-1",
            trace_id="trace-1",
            model="simulated-1",
            messages=[ChatMessage(role="user", content="Hello!")],
            max_tokens=16,
            stream=False,
        )
        print((await manager.execute_request(request)).output_text)
    finally:
        await manager.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prefill_port", type=int, help="of the engine that reads prompts, on this machine")
    parser.add_argument("decode_port", type=int, help="of the one that answers")
    asyncio.run(main(**vars(parser.parse_args())))
