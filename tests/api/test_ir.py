"""Requests as graphs."""

from __future__ import annotations

import pytest
from sagellm_protocol import Request, Response

from sagellm_control.ir.builder import IRBuilder
from sagellm_control.ir.executor import DefaultIRExecutor
from sagellm_control.ir.optimizer import IROptimizer
from sagellm_control.ir.types import ComputationNode, ParallelismConfig, SchedulerIR
from sagellm_control.types import RequestMetadata

from .conftest import a_request
from .test_engine_instance import LocalEngine


def test_a_request_becomes_a_graph_that_survives_json() -> None:
    ir = IRBuilder(default_tp_degree=4).build_from_request(a_request(prompt="one two three"))
    assert [node.node_id for node in ir.nodes] == ["task-r-1", "prefill-r-1", "decode-r-1"]
    assert [(e.from_node, e.to_node, e.dependency_type) for e in ir.edges] == [
        ("task-r-1", "prefill-r-1", "task_decomposition"),
        ("prefill-r-1", "decode-r-1", "sequential"),
    ]
    prefill, decode = ir.get_computation_nodes()
    assert (prefill.input_token_count, prefill.estimated_latency_ms) == (3, 6.5)
    assert (decode.output_token_count, decode.estimated_latency_ms) == (5, 60.0)
    assert prefill.parallelism.tp_degree == 2
    assert ir.ir_id.startswith("ir-")
    assert SchedulerIR.from_json(ir.to_json()) == ir
    with pytest.raises(KeyError):
        SchedulerIR.from_dict({})


@pytest.mark.parametrize(("tokens", "shape"), [(512, ("tp", 2, 1)), (2048, ("tp", 4, 1)), (2049, ("hybrid", 4, 2))])
def test_the_parallelism_follows_the_prompt(tokens: int, shape: tuple[str, int, int]) -> None:
    ir = IRBuilder(default_tp_degree=4).build_from_request(RequestMetadata("r", prompt_tokens=tokens))
    chosen = ir.get_computation_nodes()[0].parallelism
    assert (chosen.strategy, chosen.tp_degree, chosen.pp_degree) == shape


def test_a_batch_shares_prefixes() -> None:
    same = "You are a helpful assistant. "
    ir = IRBuilder().build_from_batch([a_request("a", prompt=same + "One"), a_request("b", prompt=same + "Two")])
    assert (ir.global_parallelism.strategy, ir.global_parallelism.dp_degree) == ("dp", 2)
    optimizer = IROptimizer()
    assert optimizer.list_passes() == ["kv_reuse", "compute_comm_overlap", "resource_allocation"]
    assert optimizer.optimize(ir) is ir
    second = ir.get_node("prefill-b")
    assert isinstance(second, ComputationNode)
    assert second.resource_allocation.reuse_kv_prefix
    assert second.resource_allocation.kv_prefix_length == len(same)
    with pytest.raises(ValueError, match="empty batch"):
        IRBuilder().build_from_batch([])
    with pytest.raises(ValueError, match=r"^tp_degree must be >= 1, got 0$"):
        ParallelismConfig(tp_degree=0)


async def test_a_graph_is_run() -> None:
    class Plane:
        async def execute_request(self, request: Request) -> Response:
            return await LocalEngine().execute(request)

    ir = IRBuilder().build_from_request(a_request())
    assert await DefaultIRExecutor(control_plane=Plane()).execute(ir) == {
        "cmd-r-1": {"request_id": "r-1", "output_text": "Hi there", "finish_reason": "stop"}
    }
    with pytest.raises(ValueError, match="Either control_plane or engine_client must be provided"):
        DefaultIRExecutor()
