"""What came of a run: figures, whether they are as promised, and the words for what is not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .aftermath import Aftermath
from .comparison import Flaw
from .disturber import Deed, Disturber
from .ledger import Fate, Ledger
from .plan import ChaosPlan
from .recovery import RecoveryWatch, p99

MUST_BE_ZERO = ("lost", "doubled", "wrong", "stuck", "interrupted", "failed", "reservations_left", "problems")
"""A run in which one of these is not 0 has failed."""

_MEANINGS = {
    "kills": "processes killed (SIGKILL)",
    "stops": "processes stopped for a while (SIGSTOP)",
    "restarts": "processes restarted (SIGTERM)",
    "accepted": "requests that the queue took",
    "finished": "answers that came whole and right",
    "cancelled": "requests whose client left or cancelled them",
    "expired": "requests whose timeout passed",
    "interrupted": "answers that ended in the middle, although another engine might have gone on",
    "failed": "requests that ended with an error and no answer, although another engine might have tried",
    "worn_out": "requests that failed, or lost their worker, as often as one may",
    "unheard": "requests whose gateway died, with a client that could not come back",
    "rerun": "requests that took more than one attempt",
    "refused": "attempts that were not accepted",
    "lost": "requests accepted and gone",
    "doubled": "tokens or endings that came twice",
    "wrong": "tokens missing, misplaced or wrong",
    "stuck": "requests that have not ended, or whose client was never told",
    "reservations_left": "places on engines held by nobody",
    "problems": "what else must not happen",
    "recovery_p99_s": "until a killed worker's requests were back in line, or had ended (s)",
    "reassigned_p99_s": "until they were assigned again, or had ended; with the wait for their turn (s)",
    "recovery_outage_p99_s": "recovery where Valkey was away meanwhile (s)",
    "longest_recovery_s": "the longest recovery (s)",
    "answer_p99_s": "from the question to the end of its answer, all waiting and coming back included (s)",
    "longest_answer_s": "the longest answer (s)",
}


@dataclass
class ChaosReport:
    """The figures of one run."""

    figures: dict[str, Any]
    details: list[str] = field(default_factory=list[str])
    """What must not have happened, in words."""

    @property
    def passed(self) -> bool:
        """Whether the promise was kept."""
        return all(self.figures[name] == 0 for name in MUST_BE_ZERO)

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value, meaning; for a table."""
        return [(name, f"{self.figures[name]}", meaning) for name, meaning in _MEANINGS.items()]

    def as_json(self) -> str:
        """For machines."""
        return json.dumps(self.figures | {"passed": self.passed, "details": self.details}, indent=2) + "\n"


def make_report(
    plan: ChaosPlan, disturber: Disturber, ledger: Ledger, recovery: RecoveryWatch, aftermath: Aftermath
) -> ChaosReport:
    """Sum up."""
    fates = ledger.fates()
    troubled = {a.request_id: a.fate for a in ledger.asked.values() if a.fate in (Fate.INTERRUPTED, Fate.FAILED)}
    worn_out = troubled.keys() & aftermath.worn_out
    for request_id in worn_out:
        fates[troubled.pop(request_id)] -= 1
    flawed = {asked.request_id: flaws for asked in ledger.asked.values() if (flaws := asked.transcript.check())}
    flaws = sum(flawed.values(), aftermath.flaws)
    lost = ledger.lost | aftermath.lost
    untold = {asked.request_id for asked in ledger.asked.values() if asked.fate is Fate.OPEN} - lost
    stuck = aftermath.stuck | untold
    deeds: dict[Deed, int] = {deed: sum(n for (_, done), n in disturber.done.items() if done is deed) for deed in Deed}
    errors: dict[str, int] = {}
    for asked in ledger.asked.values():
        if asked.fate in (Fate.INTERRUPTED, Fate.FAILED):
            errors[asked.code] = errors.get(asked.code, 0) + 1
    answers = [asked.answered_s for asked in ledger.asked.values() if asked.answered_s is not None]
    problems = [*ledger.problems, *aftermath.left_over]
    figures: dict[str, Any] = {
        "kills": deeds[Deed.KILL],
        "stops": deeds[Deed.SHORT_STOP] + deeds[Deed.LONG_STOP],
        "restarts": deeds[Deed.RESTART],
        "accepted": aftermath.accepted,
        **{fate.value: fates[fate] for fate in Fate if fate is not Fate.OPEN},
        "worn_out": len(worn_out),
        "rerun": aftermath.rerun,
        "refused": sum(ledger.refused.values()),
        "lost": len(lost),
        "doubled": flaws[Flaw.DOUBLED],
        "wrong": flaws[Flaw.MISSING] + flaws[Flaw.MISPLACED] + flaws[Flaw.WRONG],
        "stuck": len(stuck),
        "reservations_left": len(aftermath.reservations),
        "problems": len(problems),
        "recovery_p99_s": round(recovery.p99_s(), 3),
        "reassigned_p99_s": round(recovery.reassigned_p99_s(), 3),
        "recovery_outage_p99_s": round(recovery.p99_s(outages=True), 3),
        "longest_recovery_s": round(max((r.seconds for r in recovery.recoveries), default=0.0), 3),
        "answer_p99_s": round(p99(answers), 3),
        "longest_answer_s": round(max(answers, default=0.0), 3),
        "slowest_answers": ledger.slowest(),
        "recoveries": len(recovery.recoveries),
        "slowest": recovery.slowest(),
        "done": {f"{deed} {kind}": count for (kind, deed), count in sorted(disturber.done.items())},
        "outcomes": dict(sorted(aftermath.outcomes.items())),
        "errors": dict(sorted(errors.items())),
        "refusals": dict(sorted(ledger.refused.items())),
        "flaws": {flaw.value: count for flaw, count in flaws.items()},
        "seconds": plan.seconds,
        "seed": plan.seed,
    }
    details = [
        *(f"lost: {request_id}" for request_id in sorted(lost)),
        *(f"stuck: {request_id}" for request_id in sorted(stuck)),
        *(f"{fate}: {request_id}: {ledger.asked[request_id].code}" for request_id, fate in sorted(troubled.items())),
        *(f"flawed: {request_id}: {dict(found)}" for request_id, found in sorted(flawed.items())),
        *(f"reservation left: {held}" for held in aftermath.reservations),
        *(f"problem: {problem}" for problem in problems),
    ]
    return ChaosReport(figures, details)
