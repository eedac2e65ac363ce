"""Runs the tasks of a graph through a control plane."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from sagellm_protocol import Request

from .types import ComputationNode, NodeType, SchedulerIR, TaskNode


@dataclass
class ExecutionCommand:
    """One thing to do."""

    command_id: str
    command_type: str
    payload: dict[str, Any] = field(default_factory=dict[str, Any])
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


class IRExecutor(ABC):
    """Turns graphs into commands and runs them."""

    @abstractmethod
    def translate_to_commands(self, ir: SchedulerIR) -> list[ExecutionCommand]:
        """The commands of a graph."""

    @abstractmethod
    async def execute(self, ir: SchedulerIR) -> dict[str, Any]:
        """Run a graph; command id -> result."""


class DefaultIRExecutor(IRExecutor):
    """Runs each task as one request, one after another.

    Args:
        control_plane: anything with ``execute_request(Request)``.
        engine_client: anything with ``execute(Request)``; used where there is no control plane.

    Raises:
        ValueError: neither is given.
    """

    def __init__(self, control_plane: Any = None, engine_client: Any = None) -> None:
        if control_plane is None and engine_client is None:
            raise ValueError("Either control_plane or engine_client must be provided")
        self._run = control_plane.execute_request if control_plane is not None else engine_client.execute

    def translate_to_commands(self, ir: SchedulerIR) -> list[ExecutionCommand]:
        nodes = ir.get_computation_nodes()
        return [_command(task, [n for n in nodes if n.task_id == task.node_id]) for task in ir.get_task_nodes()]

    async def execute(self, ir: SchedulerIR) -> dict[str, Any]:
        """Command id -> ``{request_id, output_text, finish_reason}``, or ``{"error": text}``."""
        results: dict[str, Any] = {}
        for command in self.translate_to_commands(ir):
            try:
                response = await self._run(Request(stream=False, **command.payload))
                results[command.command_id] = {
                    "request_id": response.request_id,
                    "output_text": response.output_text,
                    "finish_reason": response.finish_reason,
                }
            except Exception as error:
                results[command.command_id] = {"error": str(error)}
        return results


def _command(task: TaskNode, nodes: list[ComputationNode]) -> ExecutionCommand:
    prefill = next((node for node in nodes if node.node_type is NodeType.PREFILL), None)
    decode = next((node for node in nodes if node.node_type is NodeType.DECODE), None)
    metadata: dict[str, Any] = {
        "prefill_node": prefill.node_id if prefill else None,
        "decode_node": decode.node_id if decode else None,
    }
    if prefill is not None:
        metadata |= {
            "reuse_kv_prefix": prefill.resource_allocation.reuse_kv_prefix,
            "kv_prefix_length": prefill.resource_allocation.kv_prefix_length,
            "parallelism": prefill.parallelism.to_dict(),
        }
    return ExecutionCommand(
        command_id=f"cmd-{task.request_id}",
        command_type="execute",
        payload={
            "request_id": task.request_id,
            "trace_id": task.trace_id,
            "model": task.model_id,
            "prompt": task.prompt,
            "max_tokens": task.max_tokens,
        },
        metadata=metadata,
    )
