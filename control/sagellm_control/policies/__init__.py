"""Scheduling policies for programs that keep a queue of their own; each works by itself.

The control plane's own queue is ordered by ``sagellm_control.scheduler.order``.
"""

from .adaptive import AdaptivePolicy
from .base import SchedulingPolicy
from .fifo import FIFOPolicy
from .kv_aware import KVAwareSchedulingPolicy
from .priority import PriorityPolicy
from .slo_aware import SLOAwarePolicy

__all__ = [
    "AdaptivePolicy",
    "FIFOPolicy",
    "KVAwareSchedulingPolicy",
    "PriorityPolicy",
    "SLOAwarePolicy",
    "SchedulingPolicy",
]
