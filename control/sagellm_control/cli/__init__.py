"""The command line ``sagellm-control``. ``root`` has the commands; they import what they need when called."""

from __future__ import annotations

import sys

from .exit_codes import INTERRUPTED

__all__ = ["main"]


def main() -> None:
    """What the installed command and ``python -m sagellm_control`` run."""
    try:
        from .root import root
    except KeyboardInterrupt:
        # It takes a moment, and click is not there yet to say it without a traceback.
        sys.exit(INTERRUPTED)
    root(prog_name="sagellm-control")
