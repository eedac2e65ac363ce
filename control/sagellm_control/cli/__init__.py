"""The command line ``sagellm-control``. ``root`` has the commands; they import what they need when called."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """What the installed command and ``python -m sagellm_control`` run."""
    from .root import root

    root(prog_name="sagellm-control")
