"""How much of a thing the tests do: a tenth or so of what CI does in its long run."""

from __future__ import annotations

import os

SCALE_VARIABLE = "SAGELLM_TEST_SCALE"


def scaled(count: int) -> int:
    """``count``, times what the environment says."""
    return round(count * float(os.environ.get(SCALE_VARIABLE, "1")))
