"""A run fails by each figure that must be 0, and by none else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sagellm_control.chaos.aftermath import Aftermath
from sagellm_control.chaos.comparison import Flaw
from sagellm_control.chaos.disturber import Disturber
from sagellm_control.chaos.ledger import Asked, Fate, Ledger
from sagellm_control.chaos.plan import ChaosPlan
from sagellm_control.chaos.question import Question
from sagellm_control.chaos.recovery import Recovery, RecoveryWatch, p99
from sagellm_control.chaos.report import MUST_BE_ZERO, ChaosReport, make_report
from sagellm_control.chaos.system import System, errors_logged
from sagellm_control.store.connect import Store


class Run:
    """The parts that a report is made of, after a run in which nothing went wrong."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.plan = ChaosPlan(seed=5)
        system = System(self.plan, folder)
        self.ledger = Ledger()
        self.recovery = RecoveryWatch(store, system.valkey)
        self.disturber = Disturber(system, self.plan, self.ledger, self.recovery.killed, print)
        self.aftermath = Aftermath(accepted=1)
        self.asked = Asked(Question("what is it", 12), "a", accepted=True, fate=Fate.FINISHED)
        self.ledger.asked["a"] = self.asked

    def report(self) -> ChaosReport:
        return make_report(self.plan, self.disturber, self.ledger, self.recovery, self.aftermath)


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Run:
    return Run(store, tmp_path)


def test_a_good_run_passes(run: Run) -> None:
    report = run.report()
    assert report.passed
    assert report.details == []
    figures = json.loads(report.as_json())
    asked_for = "kills accepted finished cancelled refused lost doubled wrong stuck reservations_left recovery_p99_s"
    assert set(asked_for.split()) <= figures.keys()
    assert (figures["accepted"], figures["finished"], figures["seed"], figures["passed"]) == (1, 1, 5, True)
    assert {name for name, _, _ in report.rows()} <= figures.keys()


@pytest.mark.parametrize("figure", MUST_BE_ZERO)
def test_each_of_these_fails_a_run(run: Run, figure: str) -> None:
    match figure:
        case "lost":
            run.aftermath.lost.add("a")
        case "doubled":
            run.aftermath.flaws[Flaw.DOUBLED] += 1
        case "wrong":
            run.asked.transcript.flaws[Flaw.MISSING] += 1
        case "stuck":
            run.asked.fate = Fate.OPEN
        case "interrupted" | "failed":
            run.asked.fate, run.asked.code = Fate(figure), "engine_lost"
        case "reservations_left":
            run.aftermath.reservations.append("a on e1")
        case _:
            run.ledger.problems.append("a gateway ended by itself")
    report = run.report()
    assert [name for name in MUST_BE_ZERO if report.figures[name]] == [figure]
    assert not report.passed


def test_every_way_of_going_wrong_is_counted(run: Run) -> None:
    run.ledger.lost.add("b")
    run.aftermath.stuck.add("c")
    run.aftermath.left_over.append("1 entries in a stream")
    for flaw in Flaw:
        run.asked.transcript.flaws[flaw] += 1
    figures = run.report().figures
    assert [figures[name] for name in ("lost", "stuck", "doubled", "wrong", "problems")] == [1, 1, 1, 3, 1]


@pytest.mark.parametrize("fate", [Fate.INTERRUPTED, Fate.FAILED])
def test_what_failed_as_often_as_it_may_is_counted_apart(run: Run, fate: Fate) -> None:
    run.asked.fate, run.asked.code = fate, "engine_lost"
    run.aftermath.worn_out.add("a")
    report = run.report()
    assert (report.figures[fate], report.figures["worn_out"], report.figures["errors"]) == (0, 1, {"engine_lost": 1})
    assert report.passed
    run.aftermath.worn_out.clear()
    assert run.report().details == [f"{fate}: a: engine_lost"]


def test_what_was_tried_often_and_answered_is_not_worn_out(run: Run) -> None:
    run.aftermath.worn_out.add("a")
    assert run.report().figures["worn_out"] == 0


def test_recoveries_with_and_without_an_outage(run: Run) -> None:
    run.recovery.recoveries += [Recovery("a", "worker-1", 4, 5, False), Recovery("b", "worker-1", 9, 12, True)]
    figures = run.report().figures
    assert (figures["recovery_p99_s"], figures["reassigned_p99_s"]) == (4, 5)
    assert (figures["recovery_outage_p99_s"], figures["longest_recovery_s"]) == (9, 9)


def test_p99() -> None:
    assert p99([]) == 0
    assert p99([3.0]) == 3
    assert p99([float(n) for n in range(1, 101)]) == 99
    assert p99([float(n) for n in range(1, 21)]) == 20


def test_errors_in_the_logs(tmp_path: Path) -> None:
    (tmp_path / "worker-1.log").write_text(
        "2026-01-01T00:00:00.000Z INFO worker: fine\n"
        "2026-01-01T00:00:00.000Z WARNING worker: cannot write to Redis (Error 111 connecting)\n"
        "2026-01-01T00:00:00.000Z ERROR worker: not fine\n"
        "2026-01-01T00:00:01.000Z ERROR worker: not fine\n"
        "Traceback (most recent call last):\n"
    )
    assert errors_logged(tmp_path) == [
        "worker-1 logged: ERROR worker: not fine (2 times)",
        "worker-1 logged: Traceback (most recent call last): (1 times)",
    ]
