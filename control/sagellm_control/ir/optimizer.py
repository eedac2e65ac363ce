"""Passes over a graph; each changes it in place."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any

from .types import NodeType, ParallelismStrategy, SchedulerIR

log = logging.getLogger(__name__)


class OptimizationPass(ABC):
    """One pass."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The pass's name."""

    @abstractmethod
    def optimize(self, ir: SchedulerIR) -> SchedulerIR:
        """Change the graph; the same graph."""


class KVReusePass(OptimizationPass):
    """Marks prefills that begin as an earlier task's does.

    Args:
        min_reuse_length: shortest common beginning (characters) that counts.
        kv_bridge: kept for programs that pass one; it is not called.
    """

    def __init__(self, min_reuse_length: int = 16, kv_bridge: Any = None) -> None:
        self.min_reuse_length = min_reuse_length
        self.kv_bridge = kv_bridge

    @property
    def name(self) -> str:
        return "kv_reuse"

    def optimize(self, ir: SchedulerIR) -> SchedulerIR:
        earlier: list[str] = []
        prefills = {node.task_id: node for node in ir.get_computation_nodes() if node.node_type is NodeType.PREFILL}
        for task in ir.get_task_nodes():
            prompt = task.prompt.strip()
            longest = max((_common_length(prompt, other) for other in earlier), default=0)
            prefill = prefills.get(task.node_id)
            if prefill is not None and longest >= self.min_reuse_length:
                prefill.resource_allocation.reuse_kv_prefix = True
                prefill.resource_allocation.kv_prefix_length = longest
            earlier.append(prompt)
        return ir


class ComputeCommOverlapPass(OptimizationPass):
    """Lets tensor-parallel computations overlap with their communication."""

    @property
    def name(self) -> str:
        return "compute_comm_overlap"

    def optimize(self, ir: SchedulerIR) -> SchedulerIR:
        for node in ir.get_computation_nodes():
            if node.parallelism.strategy is ParallelismStrategy.TENSOR_PARALLEL:
                node.metadata["enable_tp_overlap"] = True
        return ir


class ResourceAllocationPass(OptimizationPass):
    """Scales what the computations may use down to the budgets."""

    def __init__(self, kv_cache_budget: int = 100_000, memory_budget_mb: float = 10_000.0) -> None:
        self.kv_cache_budget = kv_cache_budget
        self.memory_budget_mb = memory_budget_mb

    @property
    def name(self) -> str:
        return "resource_allocation"

    def optimize(self, ir: SchedulerIR) -> SchedulerIR:
        allocations = [node.resource_allocation for node in ir.get_computation_nodes()]
        tokens = sum(allocation.kv_cache_tokens for allocation in allocations)
        memory_mb = sum(allocation.memory_mb for allocation in allocations)
        for allocation in allocations:
            if tokens > self.kv_cache_budget:
                allocation.kv_cache_tokens = int(allocation.kv_cache_tokens * self.kv_cache_budget / tokens)
            if memory_mb > self.memory_budget_mb:
                allocation.memory_mb *= self.memory_budget_mb / memory_mb
        return ir


class IROptimizer:
    """Runs passes one after another; one that fails is logged and skipped."""

    def __init__(self, *, passes: list[OptimizationPass] | None = None, enable_default_passes: bool = True) -> None:
        self._passes: list[OptimizationPass] = []
        if enable_default_passes:
            self._passes += (KVReusePass(), ComputeCommOverlapPass(), ResourceAllocationPass())
        self._passes += passes or []

    def add_pass(self, optimization: OptimizationPass) -> None:
        self._passes.append(optimization)

    def remove_pass(self, name: str) -> bool:
        """Whether there was one of this name."""
        kept = [one for one in self._passes if one.name != name]
        removed = len(kept) < len(self._passes)
        self._passes = kept
        return removed

    def get_pass(self, name: str) -> OptimizationPass | None:
        return next((one for one in self._passes if one.name == name), None)

    def list_passes(self) -> list[str]:
        """The names, in the order in which they run."""
        return [one.name for one in self._passes]

    def optimize(self, ir: SchedulerIR) -> SchedulerIR:
        """Run the passes; the same graph."""
        for one in self._passes:
            try:
                one.optimize(ir)
            except Exception:
                log.exception("pass %s failed and is skipped", one.name)
        return ir


def _common_length(one: str, other: str) -> int:
    """Characters with which both begin."""
    for length, (here, there) in enumerate(zip(one, other, strict=False)):
        if here != there:
            return length
    return min(len(one), len(other))
