"""Child processes: the command line that puts one on the leash, how it is ended, how its exit code reads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_LEASH = Path(__file__).with_name("leash.py")


def leashed(command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` so that it dies with the calling process, even by SIGKILL.

    Start it from a thread that lives as long as the process; ``leash`` says why.
    """
    # -I -S: no user site, no site-packages; both end with the exec and do not reach the command.
    return [sys.executable, "-I", "-S", str(_LEASH), "--parent", str(os.getpid()), "--", *command]


async def end(process: asyncio.subprocess.Process, deadline_s: float) -> bool:
    """SIGTERM, wait, and SIGKILL when the deadline has passed.

    Returns:
        Whether it ended by itself within the deadline.
    """
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(deadline_s):
            await process.wait()
        return True
    except TimeoutError:
        return False
    finally:
        # Also when our own task is cancelled meanwhile: whoever started a process does not leave it running.
        kill(process)
        await process.wait()


def kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL, unless it has ended already."""
    _signal(process, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        # Not process.send_signal: that polls first, and a child that has just ended is then reaped behind asyncio's
        # back, which loses its exit code (255 and a warning).
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def describe(code: int) -> str:
    """An exit code in words, e.g. ``exit code 1`` or ``killed by SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
