"""arq, SAQ and taskiq-redis beside ours: one worker each runs no-op jobs on the same kind of server."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.embedded.child_process import end, leashed

from ..process import BenchmarkFailed

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL_WITHIN_S = 300.0
RUN_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A job queue, in a virtual environment of its own: they want different versions of redis-py."""

    folder: str
    packages: tuple[str, ...]
    module: str
    arguments: tuple[str, ...] = ()


_FAST = ("uvloop", "hiredis")
PEERS = (
    Peer("arq", ("arq", *_FAST), "arq_noop"),
    Peer("saq", ("saq[redis]", "typing_extensions", *_FAST), "saq_noop"),
    Peer("taskiq", ("taskiq-redis", *_FAST), "taskiq_noop", ("stream",)),
    Peer("taskiq", ("taskiq-redis", *_FAST), "taskiq_noop", ("list",)),
)


class PeerFailed(BenchmarkFailed):
    """It could not be installed or run; the text has the end of its output."""


async def run_peer(peer: Peer, venvs: Path, jobs: int, server_binary: Path | None) -> dict[str, Any]:
    """Install the peer if need be, and run so many jobs on a fresh server.

    Returns:
        name, version, settings, jobs_per_s.

    Raises:
        PeerFailed: says why.
    """
    python = venvs / peer.folder / "bin" / "python"
    if not python.exists():
        await _run([sys.executable, "-m", "venv", str(venvs / peer.folder)], INSTALL_WITHIN_S)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        await _run([*pip, *peer.packages], INSTALL_WITHIN_S)
    async with EmbeddedValkey(persist=False, binary=server_binary) as valkey:
        module = f"benchmarks.peer_jobs.{peer.module}"
        output = await _run([str(python), "-m", module, valkey.url, str(jobs), *peer.arguments], RUN_WITHIN_S)
    return orjson.loads(output.strip().splitlines()[-1])


async def _run(command: list[str], within_s: float) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *leashed(command), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), within_s)
    except TimeoutError:
        raise PeerFailed(f"{' '.join(command)} took longer than {within_s:g} s") from None
    finally:
        await end(process, 1.0)
    if process.returncode:
        raise PeerFailed(f"{' '.join(command)}: {errors.decode(errors='replace').strip()[-400:]}")
    return output
