"""Where an attempt reports to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.event import Ending

if TYPE_CHECKING:
    from .attempt import Attempt


class Reporting(Protocol):
    """See ``Outbox``."""

    def claim(self, attempt: Attempt) -> None: ...
    def output(self, attempt: Attempt) -> None: ...
    def finish(self, attempt: Attempt, ending: Ending) -> None: ...
    def requeue(self, attempt: Attempt, cause: Cause, last_error: Ending | None = None) -> None: ...
    def advance(self, attempt: Attempt, transfer: bytes) -> None: ...
