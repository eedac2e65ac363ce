"""Requests as graphs: a task, its prefill, its decode."""

from __future__ import annotations

import secrets
from typing import Any

from sagellm_protocol import Request

from ..types import RequestMetadata
from .types import (
    ComputationNode,
    DependencyEdge,
    NodeType,
    ParallelismConfig,
    ParallelismStrategy,
    ResourceAllocation,
    SchedulerIR,
    TaskNode,
)

SHORT_PROMPT_TOKENS = 512
LONG_PROMPT_TOKENS = 2048
PREFILL_MS, PREFILL_MS_A_TOKEN = 5.0, 0.5
DECODE_MS, DECODE_MS_A_TOKEN = 10.0, 10.0


class IRBuilder:
    """Builds graphs.

    Args:
        default_tp_degree, default_pp_degree, default_dp_degree: parallelism to plan with.
        enable_kv_reuse, kv_reuse_threshold: passed on as hints.
    """

    def __init__(
        self,
        *,
        default_tp_degree: int = 1,
        default_pp_degree: int = 1,
        default_dp_degree: int = 1,
        enable_kv_reuse: bool = True,
        kv_reuse_threshold: int = 16,
    ) -> None:
        self.default_tp_degree = default_tp_degree
        self.default_pp_degree = default_pp_degree
        self.default_dp_degree = default_dp_degree
        self.enable_kv_reuse = enable_kv_reuse
        self.kv_reuse_threshold = kv_reuse_threshold

    def build_from_request(self, request: Request | RequestMetadata) -> SchedulerIR:
        """The graph of one request."""
        ir = SchedulerIR(ir_id=f"ir-{secrets.token_hex(8)}")
        task = self._add(ir, request)
        ir.global_parallelism = self._parallelism(task.estimated_tokens - task.max_tokens)
        ir.optimization_hints = {
            "enable_kv_reuse": self.enable_kv_reuse,
            "kv_reuse_threshold": self.kv_reuse_threshold,
            "priority": task.priority,
        }
        return ir

    def build_from_batch(self, requests: list[Request] | list[RequestMetadata]) -> SchedulerIR:
        """The graph of several requests. Raises ValueError if there is none."""
        if not requests:
            raise ValueError("Cannot build IR from empty batch")
        ir = SchedulerIR(ir_id=f"ir-batch-{secrets.token_hex(8)}")
        for request in requests:
            self._add(ir, request)
        ir.global_parallelism = ParallelismConfig(ParallelismStrategy.DATA_PARALLEL, dp_degree=len(requests))
        ir.optimization_hints = {"batch_size": len(requests), "enable_kv_reuse": self.enable_kv_reuse}
        return ir

    def _add(self, ir: SchedulerIR, request: Request | RequestMetadata) -> TaskNode:
        facts = _facts(request)
        prompt_tokens = facts.pop("prompt_tokens") or len(facts["prompt"].split())
        request_id, output_tokens = facts["request_id"], facts["max_tokens"]
        task = TaskNode(node_id=f"task-{request_id}", estimated_tokens=prompt_tokens + output_tokens, **facts)
        parallelism = self._parallelism(prompt_tokens)
        prefill = ComputationNode(
            node_id=f"prefill-{request_id}",
            node_type=NodeType.PREFILL,
            task_id=task.node_id,
            operation="prefill",
            input_token_count=prompt_tokens,
            estimated_latency_ms=PREFILL_MS + PREFILL_MS_A_TOKEN * prompt_tokens,
            resource_allocation=ResourceAllocation(kv_cache_tokens=prompt_tokens),
            parallelism=parallelism,
        )
        decode = ComputationNode(
            node_id=f"decode-{request_id}",
            node_type=NodeType.DECODE,
            task_id=task.node_id,
            operation="decode",
            output_token_count=output_tokens,
            estimated_latency_ms=DECODE_MS + DECODE_MS_A_TOKEN * output_tokens,
            resource_allocation=ResourceAllocation(kv_cache_tokens=output_tokens),
            parallelism=parallelism,
        )
        for node in (task, prefill, decode):
            ir.add_node(node)
        ir.add_edge(DependencyEdge(task.node_id, prefill.node_id, "task_decomposition"))
        ir.add_edge(DependencyEdge(prefill.node_id, decode.node_id, "sequential"))
        return task

    def _parallelism(self, prompt_tokens: int) -> ParallelismConfig:
        tp, pp, dp = self.default_tp_degree, self.default_pp_degree, self.default_dp_degree
        if prompt_tokens <= SHORT_PROMPT_TOKENS:
            return ParallelismConfig(ParallelismStrategy.TENSOR_PARALLEL, tp_degree=min(tp, 2), dp_degree=dp)
        if prompt_tokens <= LONG_PROMPT_TOKENS:
            return ParallelismConfig(ParallelismStrategy.TENSOR_PARALLEL, tp_degree=tp, pp_degree=pp, dp_degree=dp)
        return ParallelismConfig(ParallelismStrategy.HYBRID, tp_degree=tp, pp_degree=max(2, pp), dp_degree=dp)


def _facts(request: Request | RequestMetadata) -> dict[str, Any]:
    if isinstance(request, RequestMetadata):
        model, priority, tokens = request.model_id, int(request.priority), request.prompt_tokens
    else:
        model, priority, tokens = request.model, TaskNode.priority, 0
    return {
        "request_id": request.request_id,
        "trace_id": request.trace_id,
        "model_id": model,
        "prompt": request.prompt or "",
        "max_tokens": request.max_tokens,
        "priority": priority,
        "prompt_tokens": tokens,
    }
