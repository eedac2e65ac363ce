"""Settings with which a system gets over the loss of a master quickly, so that a test need not wait for long."""

from __future__ import annotations

from sagellm_control.store.settings import RedisSettings

from ..flow.in_process import SCHEDULER

SOON = SCHEDULER.model_copy(update={"reclaim_idle_s": 0.5})


def impatient(settings: RedisSettings) -> RedisSettings:
    """The same with a short limit for commands. (A dead server refuses connections at once; a busy machine is slow.)"""
    return settings.model_copy(update={"command_timeout_s": 1.0})
