"""Whole runs on made-up arrivals: that the queue keeps its promises, and that a run is the same each time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sagellm_control.scheduler.order.fair import CREDIT_MS, REACH_MS
from sagellm_control.scheduler.policy_settings import PolicySettings, WhenLate
from sagellm_control.simulator.engine_model import EngineModel
from sagellm_control.simulator.figures import Figures
from sagellm_control.simulator.fleet import Failure, FleetModel
from sagellm_control.simulator.job import NEVER, Job, Workload
from sagellm_control.simulator.knee import find_knee
from sagellm_control.simulator.rows import Case, Kind, Row, Setting, decider_of, early_bindings, run_case, run_cases
from sagellm_control.simulator.run import simulate
from sagellm_control.simulator.synthetic import poisson
from sagellm_control.simulator.traces import BLOCK_TOKENS
from sagellm_control.simulator.workload import Mix, without_tenant, workload_of
from sagellm_control.wire.engine import EngineRole
from sagellm_control.wire.priority import RequestPriority

SETTING = Setting(fleet=FleetModel(engines=4), pool=PolicySettings(tpot_slo_ms=60))
OURS = Case(Kind.OURS, "shortest", "soonest")
PLAIN_FIFO = Case(Kind.OURS, "fifo", "least_loaded")


def workload(requests: int = 1500, **mix: float) -> Workload:
    return workload_of("made up", poisson(requests, seed=1), mix=Mix(**mix))  # pyright: ignore


def run(case: Case, load: Workload, rate: float, setting: Setting = SETTING) -> list[Job]:
    jobs = load.at_rate(rate)
    simulate(jobs, setting.fleet, decider_of(case, setting))
    return jobs


def test_the_same_run_gives_the_same_figures() -> None:
    rows = [run_case(OURS, workload(400), 20, SETTING).plain() for _ in range(2)]
    assert rows[0] == rows[1]


def test_rows_in_parallel_are_those_one_after_the_other() -> None:
    cases = [OURS, *early_bindings(), Case(Kind.ORACLE, "oracle", "oracle")]
    load = workload(200)

    def plain(rows: list[Row]) -> list[object]:
        return [row.plain() for row in rows]

    one_by_one = plain(list(run_cases(cases, load, 20, SETTING, processes=1)))
    assert plain(list(run_cases(cases, load, 20, SETTING, processes=2))) == one_by_one


@pytest.mark.parametrize("case", [OURS, PLAIN_FIFO, Case(Kind.ORACLE, "", ""), *early_bindings()], ids=str)
def test_every_request_ends(case: Case) -> None:
    jobs = run(case, workload(600, batch_share=0.5), 60)
    assert all(job.finished_ms != NEVER for job in jobs)
    assert all(job.arrival.arrived_ms < job.first_token_ms <= job.finished_ms for job in jobs)


def test_refused_is_only_who_could_not_make_it() -> None:
    setting = replace(SETTING, pool=PolicySettings(tpot_slo_ms=60, late=WhenLate.REFUSE))
    jobs = run(OURS, workload(), 80, setting)
    refused = [job for job in jobs if job.refused_ms != NEVER]
    assert refused
    assert all(job.finished_ms == NEVER and not job.good for job in refused)
    assert all(job.finished_ms != NEVER for job in jobs if job.refused_ms == NEVER)


def test_in_an_overload_the_newest_go_first_and_the_oldest_are_refused() -> None:
    codel_settings = {"overload": "codel", "overload_interval_ms": 2000, "overload_target_ms": 1000}
    pool = PolicySettings.model_validate({"tpot_slo_ms": 60} | codel_settings)
    plain, codel = (run(PLAIN_FIFO, workload(), 80, replace(SETTING, pool=one)) for one in (SETTING.pool, pool))
    refused = [job for job in codel if job.refused_ms != NEVER]
    assert refused
    assert all(job.refused_ms - job.arrival.arrived_ms > pool.overload_target_ms for job in refused)
    assert sum(job.good for job in codel) > 2 * sum(job.good for job in plain)


def test_a_flood_of_background_that_has_aged_does_not_pass_what_is_critical() -> None:
    load = workload(2000, batch_share=0.9)
    for job in load.jobs:
        job.arrival.priority = RequestPriority.CRITICAL if job.interactive else RequestPriority.BACKGROUND
        job.arrival.slo_ms = 0

    def longest_wait_s(least_share: float) -> float:
        pool = PolicySettings(tpot_slo_ms=60, aging_s=1, least_share=least_share)
        jobs = run(Case(Kind.OURS, "priority", "least_loaded"), load, 60, replace(SETTING, pool=pool))
        return max(job.assigned_ms - job.arrival.arrived_ms for job in jobs if job.interactive) / 1000

    assert longest_wait_s(0.01) < 3
    assert longest_wait_s(0.0) > 20


def test_beyond_the_knee_ours_serves_what_early_binding_loses() -> None:
    load = workload()
    knee = find_knee(load, SETTING.fleet)
    rate = 1.33 * knee.rate
    early = max(run_case(case, load, rate, SETTING).figures.goodput for case in early_bindings())
    ours = run_case(OURS, load, rate, SETTING).figures.goodput
    assert ours > early + 0.1


def test_at_low_load_it_is_no_worse_than_plain_fifo() -> None:
    load = workload(600)
    ours, plain = (run_case(case, load, 8, SETTING).figures for case in (OURS, PLAIN_FIFO))
    assert ours.goodput >= plain.goodput
    assert ours.ttft_ms.p95 <= plain.ttft_ms.p95 * 1.02


@pytest.mark.parametrize("rate", [8.0, 16.0])
def test_prefix_affinity_finds_what_is_cached_and_keeps_the_engines_even(rate: float) -> None:
    # One beginning that all share, and conversations; caches that never forget.
    lines = [
        replace(line, prompt_tokens=line.prompt_tokens + 2 * BLOCK_TOKENS, prefix=("s0", "s1", *line.prefix))
        for line in poisson(1500, seed=1)
    ]
    load = workload_of("a system prompt", lines)

    def figures(engines: int, rate: float) -> Figures:
        fleet = FleetModel(engines, EngineModel(cache_blocks=10**6))
        return run_case(
            Case(Kind.OURS, "shortest", "prefix_affinity"), load, rate, replace(SETTING, fleet=fleet)
        ).figures

    single, shared = figures(1, 0.5), figures(8, rate)
    assert shared.prefix_hit_rate >= 0.95 * single.prefix_hit_rate
    assert shared.imbalance <= 1.2
    assert shared.goodput >= 0.999


def test_a_tenant_at_ten_times_its_share_is_felt_by_itself_alone() -> None:
    load = workload(2000, tenants=4, aggressive=10.0)
    quiet = without_tenant(load, "tenant-0")
    # Three times what four engines can serve: who is late holds out for its cached prompt, or less could be served.
    setting = replace(SETTING, pool=PolicySettings(tpot_slo_ms=60, late=WhenLate.SERVE))

    def p95(case: Case, arrivals: Workload) -> float:
        jobs = run(case, arrivals, 40.0 * len(arrivals.jobs) / len(load.jobs), setting)
        theirs = sorted(job.ttft_ms for job in jobs if job.arrival.tenant != "tenant-0")
        return theirs[int(0.95 * len(theirs))]

    fair = Case(Kind.OURS, "fair", "soonest")
    # Four engines that never stand idle make everybody wait for the next to open; with FIFO it is the whole backlog.
    assert p95(fair, load) < 4 * p95(fair, quiet)
    assert p95(PLAIN_FIFO, load) > 10 * p95(PLAIN_FIFO, quiet)


def test_the_default_placement_under_fair_keeps_the_promises_of_its_docstring() -> None:
    # No shared prompts: how many are found cached would decide how much is too much. Some third beyond capacity.
    lines = [replace(line, prefix=()) for line in poisson(1500, seed=1)]
    load = workload_of("one floods", lines, mix=Mix(tenants=8, aggressive=10.0))
    quiet = without_tenant(load, "tenant-0")
    setting = Setting(fleet=FleetModel(engines=8), pool=PolicySettings(tpot_slo_ms=60))

    def row(arrivals: Workload) -> Figures:
        rate = 14.0 * len(arrivals.jobs) / len(load.jobs)
        return run_case(Case(Kind.OURS, "fair", setting.pool.placement), arrivals, rate, setting).figures

    def p95(figures: Figures) -> float:
        others = [of for tenant, of in figures.tenants.items() if tenant != "tenant-0"]
        return sum(of["ttft_p95_ms"] for of in others) / len(others)

    flooded, alone = row(load), row(quiet)
    assert p95(flooded) <= 1.3 * p95(alone)
    pool = setting.pool
    charges = [
        pool.input_weight * job.arrival.prompt_tokens + pool.output_weight * job.output_tokens for job in load.jobs
    ]
    credit_and_reach = (CREDIT_MS + REACH_MS) * pool.fair_tokens_per_s / 1000
    assert 0 < flooded.service_gap_tokens <= 2 * max(charges) + credit_and_reach


def test_what_a_failed_engine_had_is_served_by_the_others() -> None:
    fleet = FleetModel(engines=4, failures=(Failure(1, 5_000, 5_000),))
    for case in (OURS, early_bindings()[2]):
        jobs = run(case, workload(600), 40, replace(SETTING, fleet=fleet))
        again = [job for job in jobs if job.attempts > 1]
        assert again
        assert all(job.finished_ms != NEVER for job in jobs)


SEPARATED = FleetModel(engines=4, roles=(EngineRole.PREFILL, EngineRole.PREFILL, EngineRole.DECODE, EngineRole.HYBRID))


@pytest.mark.parametrize("case", [OURS, Case(Kind.OURS, "priority", "kv_cost"), Case(Kind.ORACLE, "", "")], ids=str)
@pytest.mark.parametrize("failing", [None, 0, 2])
def test_prefill_and_decode_on_different_engines(case: Case, failing: int | None) -> None:
    failures = () if failing is None else (Failure(failing, 3_000, 3_000),)
    load = workload(400)
    jobs = load.at_rate(30)
    fleet = simulate(jobs, replace(SEPARATED, failures=failures), decider_of(case, SETTING))
    assert all(job.finished_ms != NEVER for job in jobs)
    assert all(job.engine in ("e2", "e3") for job in jobs)
    p0, p1, decoder, hybrid = fleet.engines
    assert all(engine.totals.generated_tokens == 0 for engine in (p0, p1))
    assert all(engine.totals.prompt_tokens > 0 for engine in (p0, p1, hybrid))
    assert (decoder.totals.prompt_tokens == 0) or failing == 0, "unless the blocks were lost"
    assert any(job.attempts == 2 for job in jobs)


def test_early_binding_routes_each_stage() -> None:
    for case in early_bindings():
        jobs = run(case, workload(200), 10, replace(SETTING, fleet=SEPARATED))
        assert all(job.finished_ms != NEVER and job.engine in ("e2", "e3") for job in jobs)


def test_what_a_prefilling_engine_cannot_read_yet_can_still_be_passed() -> None:
    jobs = run(OURS, workload(400), 60, replace(SETTING, fleet=replace(SEPARATED, roles=SEPARATED.roles[:3])))
    waits = [job.assigned_ms - job.arrival.arrived_ms for job in jobs]
    assert max(waits) > 1000, "beyond capacity it is the queue that is long, and not the engine's own line"


def test_with_no_engine_up_all_wait_for_one() -> None:
    fleet = FleetModel(engines=1, failures=(Failure(0, 1_000, 5_000),))
    for case in (OURS, early_bindings()[0]):
        jobs = run(case, workload(50), 10, replace(SETTING, fleet=fleet))
        assert all(job.finished_ms != NEVER for job in jobs)


def test_the_pace_is_learned_from_a_cold_start() -> None:
    load = workload(3000)
    jobs = run(OURS, load, 60)
    after_half_a_minute = [job for job in jobs if job.assigned_ms > 30_000 and job.output_tokens > 20]
    kept = sum(job.tpot_ms <= 60 for job in after_half_a_minute) / len(after_half_a_minute)
    assert kept > 0.9
