"""Vectors from any engine that makes them. ``python examples/library/embeddings.py 8100 8101``"""

from __future__ import annotations

import argparse
import asyncio

from sagellm_control import ControlPlaneManager


async def main(ports: list[int]) -> None:
    manager = ControlPlaneManager()
    await manager.start()
    try:
        for port in ports:
            manager.register_engine(f"vectors-{port}", "simulated-1", "127.0.0.1", port, engine_kind="embedding")
        while manager.healthy_engine_count < len(ports):
            await asyncio.sleep(0.05)
        vectors = await manager.get_embeddings(["one text", "another one"], model_id="simulated-1")
        print(f"{len(vectors)} vectors of {len(vectors[0])} numbers")
    finally:
        await manager.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ports", type=int, nargs="+", help="of engines on this machine")
    asyncio.run(main(parser.parse_args().ports))
