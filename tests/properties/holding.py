"""What a worker believes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Holding:
    """What a worker believes to run: it may be wrong by now."""

    request_id: str
    attempt: int
    engine: str
    worker: str
