"""/metrics names what operators alert on, and it moves with what happens."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from sagellm_control.scheduler.order import DEFAULT_ORDER
from sagellm_control.store.steps.engines import drain_engine
from sagellm_control.wire.states import RequestState

from ..samples import sample
from ..waiting import wait_until
from .asking import CHAT_PATH, chat
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

CHAT_NORMAL = {"endpoint": "chat", "priority": "normal"}


@pytest.fixture(autouse=True)
def without_the_pools_of_other_tests() -> None:
    """Thousands of tests share the process's metrics; with all their pools a scrape takes seconds."""
    for metric in list(REGISTRY._collector_to_names):  # pyright: ignore[reportPrivateUsage] - there is no other list
        if isinstance(metric, MetricWrapperBase) and "pool" in metric._labelnames:  # pyright: ignore[reportPrivateUsage]
            metric.clear()


class _Scrape:
    """One answer of /metrics."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sample that has (at least) these labels; 0 if there is none."""
        found = [s.value for s in self.samples if s.name == name and s.labels.items() >= labels.items()]
        assert len(found) <= 1, f"{name} {labels} is ambiguous"
        return found[0] if found else 0.0


async def test_an_engine_that_was_drained_is_not_ready(
    start_engine: StartEngine, start_system: StartSystem, caplog: pytest.LogCaptureFixture
) -> None:
    system = await start_system(await start_engine(), worker_lease_s=1)
    (view,) = await system.engine_views()
    labels = {"pool": view.pool, "engine": view.engine_id}
    for drain in (True, False):
        await drain_engine(system.store, view.pool, view.engine_id, drain=drain)
        await wait_until(lambda drain=drain: sample("sagellm_control_engine_ready", **labels) == (not drain))
    said = [record.message for record in caplog.records if "drain" in record.message]
    assert said == [
        f"engine {view.engine_id} gets no requests for {view.pool}: drained: "
        f"`sagellm-control engines drain {view.engine_id} --undo` gives it requests again",
        f"engine {view.engine_id} gets requests for {view.pool} again: it is not drained any more",
    ]


async def _scrape(system: InProcessSystem) -> _Scrape:
    async with system.session.get(f"{system.url}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain")
        return _Scrape(await response.text())


async def test_finished_requests_are_counted_and_timed(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine())
    before = await _scrape(system)
    for stream in (False, True):
        async with system.session.post(system.url + CHAT_PATH, json=chat(stream=stream)) as response:
            await response.read()
    after = await _scrape(system)

    def moved(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert moved("sagellm_control_requests_total", outcome="completed", **CHAT_NORMAL) == 2
    assert moved("sagellm_control_request_ttft_seconds_count", **CHAT_NORMAL) == 2
    assert moved("sagellm_control_request_duration_seconds_count", **CHAT_NORMAL) == 2
    assert moved("sagellm_control_request_duration_seconds_sum", **CHAT_NORMAL) > 0
    assert after.value("sagellm_control_gateway_open_requests") == 0


async def test_refusals_are_counted_by_their_reason(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine())
    before = await _scrape(system)
    for fields in ({"model": "nobody"}, {"messages": []}, {"n": 10**6}, {"n": 10**6, "stream": True}):
        async with system.session.post(system.url + CHAT_PATH, json=chat() | fields) as response:
            await response.read()
    garbled = {"Content-Encoding": "gzip"}
    async with system.session.post(system.url + CHAT_PATH, data=b"no gzip", headers=garbled) as response:
        assert response.status == 400
    after = await _scrape(system)

    def counted(scrape: _Scrape, outcome: str) -> float:
        name = "sagellm_control_requests_total"
        return sum(s.value for s in scrape.samples if s.name == name and s.labels["outcome"] == outcome)

    for outcome, times in {"model_not_found": 1, "invalid_value": 1, "refused": 2, "invalid_body": 1}.items():
        assert counted(after, outcome) - counted(before, outcome) == times, outcome
    ttft = "sagellm_control_request_ttft_seconds_count"
    assert after.value(ttft, **CHAT_NORMAL) == before.value(ttft, **CHAT_NORMAL), "an error is no first token"


async def test_a_missed_slo_is_counted(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine(prefill_tokens_per_s=1000))
    name = "sagellm_control_request_slo_violation_total"
    before = (await _scrape(system)).value(name, **CHAT_NORMAL)
    for slo_ms in ("1", "60000"):
        headers = {"X-SLO-Deadline-Ms": slo_ms}
        async with system.session.post(system.url + CHAT_PATH, json=chat("x" * 80), headers=headers) as response:
            assert response.status == 200
    assert (await _scrape(system)).value(name, **CHAT_NORMAL) - before == 1


async def test_the_queue_and_the_engines_are_shown(start_engine: StartEngine, start_system: StartSystem) -> None:
    model = "metrics-of-the-queue"
    system = await start_system(await start_engine(slots=1, tpot_ms=20, models=[model]))
    busy = chat("busy", model=model, max_tokens=10_000, stream=True)
    async with system.session.post(system.url + CHAT_PATH, json=busy):
        waiting = [asyncio.create_task(_ask(system, model, f"waits-{i}")) for i in range(3)]
        for i in range(3):
            await system.until(f"waits-{i}", RequestState.WAITING)

        async def shown() -> bool:
            scrape = await _scrape(system)
            return (
                scrape.value("sagellm_control_flow_control_queue_size", pool=model, place="waiting") == 3
                and scrape.value("sagellm_control_engines", pool=model, state="ready") == 1
                and scrape.value("sagellm_control_engines", pool=model, state="with_room") == 0
                and scrape.value("sagellm_control_gateway_open_requests") == 4
            )

        await wait_until(shown, what="/metrics shows the queue")
    await asyncio.gather(*waiting)


async def _ask(system: InProcessSystem, model: str, request_id: str) -> None:
    body = chat(request_id, model=model, max_tokens=1)
    headers = {"X-Request-ID": request_id}
    async with system.session.post(system.url + CHAT_PATH, json=body, headers=headers) as response:
        assert response.status == 200


async def test_a_client_that_leaves_is_counted(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine(tpot_ms=20))
    name, labels = "sagellm_control_requests_total", {"outcome": "cancelled", **CHAT_NORMAL}
    before = (await _scrape(system)).value(name, **labels)
    body = chat(max_tokens=10_000, stream=True)
    async with system.session.post(system.url + CHAT_PATH, json=body) as response:
        request_id = response.headers["X-Request-ID"]
    assert await system.until_outcome(request_id) == "cancelled"

    async def counted() -> bool:
        scrape = await _scrape(system)
        return scrape.value(name, **labels) - before == 1 and scrape.value("sagellm_control_gateway_open_requests") == 0

    await wait_until(counted)


async def test_what_should_stay_0_is_told_from_0_on(start_engine: StartEngine, start_system: StartSystem) -> None:
    """What first appears with its first count is no increase to Prometheus."""
    await start_system(await start_engine(models=["never-heard-of"]))
    for name, labels in (
        ("scheduler_missed_wakeups_total", {}),
        ("scheduler_policy_failures_total", {"policy": DEFAULT_ORDER}),
        ("keeper_repairs_total", {"kind": "lost_from_waiting"}),
        ("engine_lapses_total", {}),
    ):

        def told(name: str = f"sagellm_control_{name}", labels: dict[str, str] = labels) -> bool:
            return REGISTRY.get_sample_value(name, {"pool": "never-heard-of"} | labels) == 0

        await wait_until(told, what=f"{name} is told")
