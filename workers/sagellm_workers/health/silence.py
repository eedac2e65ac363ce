"""Since when an engine has been silent: to probes, and in whatever else it might have said."""

from __future__ import annotations


class Silence:
    """Counts the probes that an engine leaves without a good answer while nothing else is heard of it either.

    Pure: all times (s, monotonic) are told.

    Args:
        failures: 1 if it is silent already, 0 if it answers.
        since: when that was seen.
    """

    def __init__(self, failures: int, since: float) -> None:
        self.failures = failures
        """Failed probes in a row without a word of the engine's since the first of them began; 0: it answers."""
        self.since = since
        """When the first of them began; says nothing while there is none."""

    def note(self, healthy: bool, began: float, heard_at: float) -> None:
        """A probe has ended that began then; the engine was last heard of, in an answer or a probe, at ``heard_at``."""
        if healthy or heard_at >= began:
            self.failures = 0
        elif self.failures and heard_at < self.since:
            self.failures += 1
        else:
            self.failures, self.since = 1, began
