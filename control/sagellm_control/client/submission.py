"""What a caller holds of a request: that it is in the queue, and in the end its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from ..wire.event import Ending
from ..wire.states import Outcome


@dataclass(slots=True, frozen=True)
class Submission:
    """A request that is in the queue."""

    request_id: str
    pool: str
    existed: bool
    """It had been submitted before: this is a retry."""


@dataclass(slots=True, frozen=True)
class Result:
    """The whole answer."""

    ending: Ending
    body: bytes
    """All that the engine wrote: JSON, or server-sent events."""

    @property
    def ok(self) -> bool:
        return self.ending.outcome is Outcome.COMPLETED

    def json(self) -> Any:
        """The body, parsed."""
        return orjson.loads(self.body)
