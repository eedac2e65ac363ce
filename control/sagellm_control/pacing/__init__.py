"""How fast an engine may be handed new prompts: learned where the tokens are seen, pure, the same in the simulator."""

from __future__ import annotations

from .controller import PaceController, prefilling_pace
from .objectives import PaceObjectives, Window

__all__ = ["PaceController", "PaceObjectives", "Window", "prefilling_pace"]
