"""Asks a port whether a certain Redis or Valkey process answers there, and whether it has loaded its file."""

from __future__ import annotations

import asyncio
from typing import Literal

from .ports import LOOPBACK

_ANSWER_WITHIN_S = 1.0
"""For one PING over loopback; a server that loads answers between two chunks of its file."""


async def ask(port: int, pid: int) -> Literal["ready", "loading", "silent"]:
    """One question. ``silent`` is also the answer of anybody but the process ``pid``."""
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(b"PING\r\nINFO server\r\n")
                pong = await reader.readline()
                size = int((await reader.readline()).removeprefix(b"$"))
                facts = (await reader.readexactly(size)).decode().splitlines()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return "silent"
    if f"process_id:{pid}" not in facts:
        return "silent"  # somebody else was faster on this port; ours will say so in its log and end
    return "ready" if pong.startswith(b"+PONG") else "loading"
