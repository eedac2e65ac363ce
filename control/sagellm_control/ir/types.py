"""The graph of tasks, computations and dependencies, and its JSON form."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self


class NodeType(StrEnum):
    """What a node does."""

    TASK = "task"
    PREFILL = "prefill"
    DECODE = "decode"
    KV_CACHE_OP = "kv_cache_op"
    COMMUNICATION = "communication"
    SYNC = "sync"


class ParallelismStrategy(StrEnum):
    """How a computation is spread over devices."""

    NONE = "none"
    TENSOR_PARALLEL = "tp"
    PIPELINE_PARALLEL = "pp"
    DATA_PARALLEL = "dp"
    EXPERT_PARALLEL = "ep"
    HYBRID = "hybrid"


@dataclass
class ParallelismConfig:
    """Degrees of parallelism.

    Raises:
        ValueError: a degree is below 1.
    """

    strategy: ParallelismStrategy = ParallelismStrategy.NONE
    tp_degree: int = 1
    pp_degree: int = 1
    dp_degree: int = 1
    ep_degree: int = 1

    def __post_init__(self) -> None:
        for name in ("tp_degree", "pp_degree", "dp_degree", "ep_degree"):
            degree = getattr(self, name)
            if degree < 1:
                raise ValueError(f"{name} must be >= 1, got {degree}")

    @property
    def total_parallelism(self) -> int:
        """The product of the degrees."""
        return self.tp_degree * self.pp_degree * self.dp_degree * self.ep_degree

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"strategy": self.strategy.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read ``to_dict``'s form. Raises KeyError where a key is missing."""
        read = _named(cls, values)
        read["strategy"] = ParallelismStrategy(values["strategy"])
        return cls(**read)


@dataclass
class ResourceAllocation:
    """What a computation may use."""

    engine_id: str | None = None
    kv_cache_tokens: int = 0
    memory_mb: float = 0.0
    compute_units: int = 1
    reuse_kv_prefix: bool = False
    kv_prefix_length: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read ``to_dict``'s form. Raises KeyError where a key is missing."""
        return cls(**_named(cls, values))


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class IRNode:
    """A node of the graph."""

    node_id: str
    node_type: NodeType
    created_at: datetime = field(default_factory=_now)
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values |= {"node_type": self.node_type.value, "created_at": self.created_at.isoformat()}
        return {name: value.to_dict() if hasattr(value, "to_dict") else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read ``to_dict``'s form. Raises KeyError where a key is missing."""
        read = _named(cls, values)
        read |= {"node_type": NodeType(read["node_type"]), "created_at": datetime.fromisoformat(read["created_at"])}
        return cls(**read)


@dataclass
class TaskNode(IRNode):
    """One request."""

    node_type: NodeType = NodeType.TASK
    request_id: str = ""
    trace_id: str = ""
    model_id: str = ""
    prompt: str = ""
    max_tokens: int = 512
    priority: int = 2
    estimated_tokens: int = 0


@dataclass
class ComputationNode(IRNode):
    """A prefill, a decode, or what else an engine does for a task."""

    node_type: NodeType = NodeType.PREFILL
    task_id: str = ""
    operation: str = ""
    input_token_count: int = 0
    output_token_count: int = 0
    estimated_latency_ms: float = 0.0
    resource_allocation: ResourceAllocation = field(default_factory=ResourceAllocation)
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return super().from_dict(
            values
            | {
                "resource_allocation": ResourceAllocation.from_dict(values["resource_allocation"]),
                "parallelism": ParallelismConfig.from_dict(values["parallelism"]),
            }
        )


@dataclass
class DependencyEdge:
    """``to_node`` needs ``from_node``."""

    from_node: str
    to_node: str
    dependency_type: str = "data"
    weight: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read ``to_dict``'s form. Raises KeyError where a key is missing."""
        return cls(**_named(cls, values))


@dataclass
class SchedulerIR:
    """The graph."""

    ir_id: str
    nodes: list[IRNode] = field(default_factory=list[IRNode])
    edges: list[DependencyEdge] = field(default_factory=list[DependencyEdge])
    global_parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    optimization_hints: dict[str, Any] = field(default_factory=dict[str, Any])
    created_at: datetime = field(default_factory=_now)
    version: str = "0.1.0"

    def add_node(self, node: IRNode) -> None:
        self.nodes.append(node)

    def add_edge(self, edge: DependencyEdge) -> None:
        self.edges.append(edge)

    def get_node(self, node_id: str) -> IRNode | None:
        """The first node of this id."""
        return next((node for node in self.nodes if node.node_id == node_id), None)

    def get_task_nodes(self) -> list[TaskNode]:
        return [node for node in self.nodes if isinstance(node, TaskNode)]

    def get_computation_nodes(self) -> list[ComputationNode]:
        return [node for node in self.nodes if isinstance(node, ComputationNode)]

    def get_dependencies(self, node_id: str) -> list[DependencyEdge]:
        """The edges that lead to the node."""
        return [edge for edge in self.edges if edge.to_node == node_id]

    def get_dependents(self, node_id: str) -> list[DependencyEdge]:
        """The edges that start at the node."""
        return [edge for edge in self.edges if edge.from_node == node_id]

    def to_dict(self) -> dict[str, Any]:
        return {
            "ir_id": self.ir_id,
            "nodes": [node.to_dict() for node in self.nodes],
            "edges": [edge.to_dict() for edge in self.edges],
            "global_parallelism": self.global_parallelism.to_dict(),
            "optimization_hints": self.optimization_hints,
            "created_at": self.created_at.isoformat(),
            "version": self.version,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read ``to_dict``'s form. Raises KeyError where a key is missing."""
        return cls(
            ir_id=values["ir_id"],
            nodes=[_read_node(node) for node in values["nodes"]],
            edges=[DependencyEdge.from_dict(edge) for edge in values["edges"]],
            global_parallelism=ParallelismConfig.from_dict(values["global_parallelism"]),
            optimization_hints=values["optimization_hints"],
            created_at=datetime.fromisoformat(values["created_at"]),
            version=values["version"],
        )

    def to_json(self, indent: int = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(json.loads(text))


def _read_node(values: dict[str, Any]) -> IRNode:
    match NodeType(values["node_type"]):
        case NodeType.TASK:
            return TaskNode.from_dict(values)
        case _ if "operation" in values:
            return ComputationNode.from_dict(values)
        case _:
            return IRNode.from_dict(values)


def _named(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    return {item.name: values[item.name] for item in fields(kind)}
