"""The in-process API: ``ControlPlaneManager`` and the two places where its state can live.

    control_plane    the public face; checks arguments, turns answers into the protocol's types
    registry         its half about engines
    backend          what it needs of the place where the state lives
    local_backend    the state lives in this process
    shared_backend   the state lives in Redis

Loaded when it is first asked for: every process reads the settings in here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .control_plane import ControlPlaneManager

__all__ = ["ControlPlaneManager"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .control_plane import ControlPlaneManager

    globals()[name] = ControlPlaneManager
    return ControlPlaneManager
