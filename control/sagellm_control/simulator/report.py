"""The table of a simulation for people, and its JSON for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .figures import Figures, Percentiles
from .rows import Kind, Row

COLUMNS = (
    *("KIND", "POLICY", "PLACEMENT", "GOODPUT", "INTERACTIVE", "BATCH", "REFUSED"),
    *("TTFT s p50/95/99", "TPOT ms p50/95/99", "E2E s p50/95/99"),
    *("HITS", "BUSY", "MAX/MEAN", "GAP", "LONGEST WAIT"),
)


def table_line(row: Row) -> tuple[str, ...]:
    """A row as cells, in the order of ``COLUMNS``."""
    one = row.figures
    policy = "-" if row.case.kind is Kind.ORACLE else row.case.policy
    placement = "-" if row.case.kind is Kind.ORACLE else row.case.placement
    return (
        row.case.kind.value.replace("_", " "),
        policy,
        placement,
        f"{one.goodput:.3f}",
        _share(one.interactive_attainment),
        _share(one.batch_attainment),
        str(one.refused),
        _three(one.ttft_ms, 1000, 2),
        _three(one.tpot_ms, 1, 0),
        _three(one.e2e_ms, 1000, 1),
        f"{one.prefix_hit_rate:.3f}",
        f"{one.utilisation:.2f}",
        f"{one.imbalance:.2f}",
        _gap(one),
        f"{one.longest_wait_ms / 1000:.1f} s",
    )


def summary(rows: Sequence[Row]) -> list[str]:
    """The best row of each kind, in one line each."""
    lines: list[str] = []
    for kind in (Kind.OURS, Kind.EARLY_BINDING, Kind.ORACLE):
        of_kind = [row for row in rows if row.case.kind is kind]
        if not of_kind:
            continue
        best = max(of_kind, key=lambda row: row.figures.goodput)
        name = "" if kind is Kind.ORACLE else f" ({best.case.policy}, {best.case.placement})"
        lines.append(f"best {kind.value.replace('_', ' ')}: goodput {best.figures.goodput:.3f}{name}")
    return lines


def json_report(
    *,
    trace: str,
    requests: int,
    engines: int,
    load: float | None,
    rate: float,
    knee_rate: float | None,
    knee_router: str | None,
    batch_share: float,
    seed: int,
    rows: Sequence[Row],
) -> dict[str, Any]:
    """What ``--json`` writes: ``knee_rate`` and ``rate`` in requests/s, times in ms, shares from 0 to 1."""
    return {
        "trace": trace,
        "requests": requests,
        "engines": engines,
        "load": load,
        "rate": round(rate, 6),
        "knee_rate": None if knee_rate is None else round(knee_rate, 6),
        "knee_router": knee_router,
        "batch_share": batch_share,
        "seed": seed,
        "rows": [row.plain() for row in rows],
    }


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _three(value: Percentiles, unit: float, digits: int) -> str:
    return "/".join(f"{one / unit:.{digits}f}" for one in (value.p50, value.p95, value.p99))


def _gap(one: Figures) -> str:
    return f"{one.service_gap_tokens / 1000:.0f}k" if one.tenants else "-"
