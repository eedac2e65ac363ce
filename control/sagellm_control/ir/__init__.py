"""Requests as a graph of prefills and decodes. Kept for programs that import it; nothing else here uses it."""

from .builder import IRBuilder
from .executor import DefaultIRExecutor, ExecutionCommand, IRExecutor
from .optimizer import (
    ComputeCommOverlapPass,
    IROptimizer,
    KVReusePass,
    OptimizationPass,
    ResourceAllocationPass,
)
from .types import (
    ComputationNode,
    DependencyEdge,
    IRNode,
    NodeType,
    ParallelismConfig,
    ParallelismStrategy,
    ResourceAllocation,
    SchedulerIR,
    TaskNode,
)

__all__ = [
    "ComputationNode",
    "ComputeCommOverlapPass",
    "DefaultIRExecutor",
    "DependencyEdge",
    "ExecutionCommand",
    "IRBuilder",
    "IRExecutor",
    "IRNode",
    "IROptimizer",
    "KVReusePass",
    "NodeType",
    "OptimizationPass",
    "ParallelismConfig",
    "ParallelismStrategy",
    "ResourceAllocation",
    "ResourceAllocationPass",
    "SchedulerIR",
    "TaskNode",
]
