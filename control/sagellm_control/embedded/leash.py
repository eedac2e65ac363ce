"""Runs a command that dies with its parent: ``python -m sagellm_control.embedded.leash -- CMD…``.

A SIGKILL gives a parent no chance to stop its children, so the kernel has to do it. The command keeps the
process id that the parent got, so signals and exit codes need no middleman.

- Linux: the kernel sends SIGKILL when the parent ends (``PR_SET_PDEATHSIG``). It does so when the *thread*
  that started the command ends, so start leashed commands from a thread that lives as long as the process.
- macOS: a small watcher process waits on both with kqueue and kills the command when the parent ends.

Standard library only, and run by its path: it stands between a supervisor and each of its children, so it
has to start in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h. The setting survives exec, not fork."""

_DESCRIPTORS_MAX = 4096
"""Above what a supervisor hands to a child; the system's own limit may be in the millions."""

_CANNOT_RUN = 127
"""What a shell answers for a command that it cannot run."""


def main(arguments: Sequence[str]) -> int:
    """Put this process on the leash and become the command. Returns only if that fails."""
    parent = os.getppid()
    rest = list(arguments)
    if rest[:1] == ["--parent"] and len(rest) > 1:
        # The parent told its id before the fork, so its death before this line shows as well.
        parent, rest = int(rest[1]), rest[2:]
    if rest[:1] == ["--"]:
        rest = rest[1:]
    if not rest:
        print("usage: python -m sagellm_control.embedded.leash [--parent PID] -- COMMAND…", file=sys.stderr)
        return 2
    if sys.platform == "linux":
        _die_with_parent()
    elif sys.platform == "darwin":
        _start_watcher(parent)
    if os.getppid() != parent:
        return 1  # it ended before the leash was on: nobody would ever stop the command
    try:
        os.execvp(rest[0], rest)
    except OSError as error:
        print(f"cannot run {rest[0]}: {error.strerror}", file=sys.stderr)
        return _CANNOT_RUN


if sys.platform == "linux":

    def _die_with_parent() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")

elif sys.platform == "darwin":

    def _start_watcher(parent: int) -> None:
        command = os.getpid()
        if os.fork() != 0:
            return
        # The watcher: out of the terminal's reach, and holding none of the command's pipes and locks.
        os.setsid()
        queue = select.kqueue()
        keep = queue.fileno()
        os.closerange(0, keep)
        os.closerange(keep + 1, _DESCRIPTORS_MAX)
        try:
            ends = [
                select.kevent(
                    pid,
                    filter=select.KQ_FILTER_PROC,
                    flags=select.KQ_EV_ADD | select.KQ_EV_ONESHOT,
                    fflags=select.KQ_NOTE_EXIT,
                )
                for pid in (parent, command)
            ]
            first = queue.control(ends, 1)
            parent_ended = bool(first) and first[0].ident == parent
        except OSError:
            parent_ended = True  # it was gone before we could watch it
        if parent_ended:
            os.kill(command, signal.SIGKILL)
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
