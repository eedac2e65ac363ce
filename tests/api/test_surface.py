"""The public names, where programs find them, with their signatures and defaults."""

from __future__ import annotations

import importlib
import inspect
import pickle
import subprocess
import sys
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from typing import Any

import pytest

import sagellm_control

TOP = [
    "__version__",
    "EngineInfo",
    "EngineState",
    "RequestPriority",
    "RequestStatus",
    "RequestType",
    "SchedulingDecision",
    "ExecutionInstanceType",
    "ControlPlaneManager",
    "LoadBalancer",
    "RequestRouter",
    "EngineLifecycleManager",
    "ScalingManager",
    "SchedulingPolicy",
    "FIFOPolicy",
    "PriorityPolicy",
    "SLOAwarePolicy",
    "AdaptivePolicy",
    "EngineClient",
    "LocalEngineClient",
    "ClientConfig",
    "RequestContext",
    "RetryPolicy",
    "EngineClientError",
    "EngineTimeoutError",
    "EngineUnavailableError",
    "EngineRequestError",
]

ELSEWHERE = {
    "types": "RequestMetadata ExecutionInstance PerformanceMetrics ParallelismType",
    "router": "RoundRobinRouter LeastLoadedRouter",
    "policies": "SchedulingPolicy FIFOPolicy PriorityPolicy SLOAwarePolicy AdaptivePolicy KVAwareSchedulingPolicy",
    "policies.base": "SchedulingPolicy",
    "policies.fifo": "FIFOPolicy",
    "policies.priority": "PriorityPolicy",
    "policies.slo_aware": "SLOAwarePolicy",
    "policies.adaptive": "AdaptivePolicy",
    "policies.kv_aware": "KVAwareSchedulingPolicy",
    "engine_client": "EngineClient ClientConfig RequestContext RetryPolicy EngineClientError",
    "local_engine_client": "LocalEngineClient",
    "lifecycle": "EngineLifecycleManager",
    "manager": "ControlPlaneManager",
    "scaling": "ScalingManager",
    "ir": "IRBuilder IROptimizer DefaultIRExecutor SchedulerIR TaskNode ComputationNode DependencyEdge",
    "ir.builder": "IRBuilder",
    "ir.executor": "DefaultIRExecutor ExecutionCommand",
    "ir.optimizer": "IROptimizer KVReusePass ComputeCommOverlapPass ResourceAllocationPass",
    "ir.types": "NodeType ParallelismStrategy ParallelismConfig ResourceAllocation IRNode TaskNode SchedulerIR",
}

ENUMS = {
    "EngineState": "STARTING=STARTING READY=READY DRAINING=DRAINING STOPPED=STOPPED ERROR=ERROR",
    "ExecutionInstanceType": "GENERAL=general PREFILLING=prefilling DECODING=decoding HYBRID=hybrid "
    "EMBEDDING=embedding LLM_EMBEDDING=llm_embedding",
    "RequestType": "LLM_CHAT=llm_chat LLM_GENERATE=llm_generate EMBEDDING=embedding",
    "RequestPriority": "CRITICAL=0 HIGH=1 NORMAL=2 LOW=3 BACKGROUND=4",
    "RequestStatus": "PENDING=pending QUEUED=queued SCHEDULED=scheduled RUNNING=running COMPLETED=completed "
    "FAILED=failed CANCELLED=cancelled",
    "ParallelismType": "TENSOR_PARALLEL=tp PIPELINE_PARALLEL=pp DATA_PARALLEL=dp EXPERT_PARALLEL=ep HYBRID=hybrid",
    "RetryPolicy": "NONE=none EXPONENTIAL_BACKOFF=exponential_backoff LINEAR_BACKOFF=linear_backoff",
}

# Arguments behind ``*`` are ours.
SIGNATURES = {
    "ControlPlaneManager": "scheduling_policy='fifo', routing_strategy='round_robin', mode='local', "
    "health_check_interval_s=10.0, max_consecutive_failures=3",
    "ControlPlaneManager.register_engine": "engine_id, model_id, host, port, engine_kind='llm', metadata=None",
    "ControlPlaneManager.unregister_engine": "engine_id",
    "ControlPlaneManager.update_engine_state": "engine_id, state",
    "ControlPlaneManager.get_engine": "engine_id",
    "ControlPlaneManager.list_engines": "state=None",
    "ControlPlaneManager.get_engines_for_model": "model_id",
    "ControlPlaneManager.complete_request": "request_id, engine_id",
    "ControlPlaneManager.get_status": "",
    "ControlPlaneManager.start": "",
    "ControlPlaneManager.stop": "",
    "ControlPlaneManager.schedule_request": "request_id, trace_id, model_id, prompt='', max_tokens=512, "
    "priority=<RequestPriority.NORMAL: 2>, request_type=<RequestType.LLM_CHAT: 'llm_chat'>, deadline_ms=None",
    "ControlPlaneManager.execute_request": "request, timeout_s=None",
    "ControlPlaneManager.stream_request": "request",
    "ControlPlaneManager.get_embeddings": "texts, model_id='default', trace_id=None",
    "EngineClient": "config=None",
    "EngineClient.execute": "engine, request_data, context=None",
    "EngineClient.stream": "engine, request_data, context=None",
    "EngineClient.health_check": "engine",
    "EngineClient.close": "",
    "EngineClient._calculate_retry_delay": "attempt",
    "EngineClientError": "message, retryable=False",
    "EngineTimeoutError": "message",
    "EngineUnavailableError": "message",
    "EngineRequestError": "message, status_code",
    "LocalEngineClient": "engine",
    "LoadBalancer": "strategy='least_loaded'",
    "LoadBalancer.route": "request, candidates",
    "SLOAwarePolicy": "default_deadline_ms=5000.0",
    "AdaptivePolicy": "high_load_threshold=0.7",
    "FIFOPolicy.schedule": "request, candidates, pending_requests",
    "EngineLifecycleManager": "health_check_interval_s=10.0, max_consecutive_failures=3, auto_restart=False, "
    "on_state_change=None",
    "EngineLifecycleManager.drain_engine": "engine_id, timeout_s=30.0",
    "ScalingManager.scale_up": "model_id, num_instances=1, instance_type='general'",
    "ScalingManager.scale_down": "engine_ids, graceful=True",
}

DATACLASSES = {
    "EngineInfo": "engine_id model_id host port state=READY? engine_kind='llm' created_at last_heartbeat=None "
    "consecutive_failures=0 active_requests=0 metadata",
    "SchedulingDecision": "request_id engine_id queue_position=0 estimated_wait_ms=0.0 status reason=''",
    "ClientConfig": "timeout_s=60.0 connect_timeout_s=5.0 max_retries=3 retry_policy base_retry_delay_s=0.5 "
    "max_retry_delay_s=10.0 enable_failover=True",
    "RequestContext": "request_id trace_id start_time attempts=0 last_error=None engines_tried",
    "RequestMetadata": "request_id trace_id='' model_id='' prompt=None request_type priority max_tokens=512 "
    "prompt_tokens=0 arrival_time slo_deadline_ms=None embedding_texts=None",
    "ExecutionInstance": "instance_id host port model_name instance_type is_available=True is_healthy=True "
    "current_load=0.0 active_requests=0 max_concurrent_requests=100 supported_request_types=None metadata",
    "PerformanceMetrics": "ttft_ms=0.0 tbt_ms=0.0 throughput_tps=0.0 latency_p50_ms=0.0 latency_p99_ms=0.0 "
    "error_rate=0.0",
}


def _find(name: str) -> Any:
    first, _, rest = name.partition(".")
    homes = [sagellm_control, importlib.import_module("sagellm_control.types")]
    found = next(getattr(home, first) for home in homes if hasattr(home, first))
    return getattr(found, rest) if rest else found


def test_all() -> None:
    assert sorted(sagellm_control.__all__) == sorted(TOP)
    for name in TOP:
        assert getattr(sagellm_control, name) is not None
    assert set(TOP) <= set(dir(sagellm_control))
    with pytest.raises(AttributeError, match="KVAwareSchedulingPolicy"):
        _ = sagellm_control.KVAwareSchedulingPolicy  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ELSEWHERE)
def test_submodules(module: str) -> None:
    found = importlib.import_module(f"sagellm_control.{module}")
    for name in ELSEWHERE[module].split():
        assert hasattr(found, name), name


@pytest.mark.parametrize("name", ENUMS)
def test_enums(name: str) -> None:
    kind = _find(name)
    members = [member.partition("=")[::2] for member in ENUMS[name].split()]
    number = name == "RequestPriority"
    assert [(member.name, member.value) for member in kind] == [
        (member, int(value) if number else value) for member, value in members
    ]
    assert all(isinstance(member, int if number else str) for member in kind)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    parameters = inspect.signature(_find(name)).parameters.values()
    shown = [
        parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"
        for parameter in parameters
        if parameter.name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert ", ".join(shown[: len([part for part in SIGNATURES[name].split(", ") if part])]) == SIGNATURES[name]


@pytest.mark.parametrize("name", DATACLASSES)
def test_dataclasses(name: str) -> None:
    expected = [part.partition("=") for part in DATACLASSES[name].split()]
    found = fields(_find(name))
    assert [item.name for item in found] == [part[0] for part in expected]
    for item, (_, equals, default) in zip(found, expected, strict=True):
        if equals and not default.endswith("?"):
            assert item.default is not MISSING
            assert repr(item.default) == default


def test_one_enum_and_not_two() -> None:
    from sagellm_control.wire import priority, states

    assert sagellm_control.EngineState is states.EngineState
    assert sagellm_control.RequestPriority is priority.RequestPriority


def test_an_engine_info() -> None:
    info = sagellm_control.EngineInfo("e1", "m", "host", 8000)
    assert info.endpoint == "http://host:8000"
    assert (info.is_healthy, info.is_accepting_requests, info.is_terminal) == (False, False, False)
    assert info.created_at.tzinfo is UTC
    assert list(info.to_dict()) == [
        "engine_id",
        "model_id",
        "host",
        "port",
        "state",
        "engine_kind",
        "created_at",
        "last_heartbeat",
        "consecutive_failures",
        "active_requests",
        "metadata",
    ]
    assert info.to_dict()["state"] == "STARTING"
    info.watch(lambda _info, _name: None)
    copy = pickle.loads(pickle.dumps(info))
    assert copy == info
    assert "_changed" not in copy.__dict__
    info.state = sagellm_control.EngineState.STOPPED
    assert (info.is_terminal, info == copy) == (True, False)


def test_a_decision() -> None:
    decide, status = sagellm_control.SchedulingDecision, sagellm_control.RequestStatus
    assert decide("r", "e").is_scheduled
    assert not decide("r", None).is_scheduled
    assert not decide("r", "e", status=status.QUEUED).is_scheduled


def test_an_execution_instance() -> None:
    from sagellm_control.types import ExecutionInstance, ExecutionInstanceType, RequestType

    instance = ExecutionInstance("i", "h", 1, "m", current_load=0.949)
    assert instance.can_accept_request
    instance.current_load = 0.95
    assert not instance.can_accept_request
    assert instance.available_capacity == pytest.approx(0.05)
    instance.instance_type = ExecutionInstanceType.LLM_EMBEDDING
    assert set(instance.effective_request_types) == set(RequestType)


def test_importing_is_cheap() -> None:
    # The scheduler and the gateway import the package too.
    heavy = ("httpx", "aiohttp", "redis", "sagellm_protocol", "pydantic_settings")
    code = f"import sagellm_control, sys; sys.exit(' '.join(m for m in {heavy!r} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_times_may_be_naive_where_programs_give_them() -> None:
    from sagellm_control.policies import PriorityPolicy
    from sagellm_control.types import RequestMetadata

    aware, naive = RequestMetadata("a"), RequestMetadata("n", arrival_time=datetime(2020, 1, 1))
    assert [r.request_id for r in PriorityPolicy().reorder_queue([aware, naive])] == ["n", "a"]
