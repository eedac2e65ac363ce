"""The plot page: one file without scripts and without anything from the network; and its plots alone, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .rows import Kind, Row

BAR_HEIGHT = 16
LABEL_WIDTH = 260
PLOT_WIDTH = 420
COLOURS = {Kind.OURS: "#2563eb", Kind.EARLY_BINDING: "#9ca3af", Kind.ORACLE: "#16a34a"}


def bars(title: str, rows: Sequence[tuple[str, Kind, float | None]], *, most: float = 1.0, unit: str = "") -> str:
    """A bar chart as an SVG element.

    Args:
        rows: name, kind and value; None has no bar.
        most: where the axis ends.
    """
    height = 40 + (BAR_HEIGHT + 6) * len(rows)
    width = LABEL_WIDTH + PLOT_WIDTH + 80
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="8" y="20" font-weight="bold">{escape(title)}</text>'
    ]
    for number, (name, kind, value) in enumerate(rows):
        y = 32 + number * (BAR_HEIGHT + 6)
        parts.append(f'<text x="{LABEL_WIDTH - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        if value is None:
            continue
        length = max(0.0, min(1.0, value / most if most else 0.0)) * PLOT_WIDTH
        parts.append(
            f'<rect x="{LABEL_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}" fill="{COLOURS[kind]}"/>'
            f'<text x="{LABEL_WIDTH + length + 6:.1f}" y="{y + 12}">{_number(value)}{escape(unit)}</text>'
        )
    parts.append("</svg>")
    return "\n".join(parts)


def plot_page(title: str, facts: Sequence[str], rows: Sequence[Row]) -> str:
    """The page as HTML."""
    figures = [row.figures for row in rows]
    slowest = max((one.ttft_ms.p95 for one in figures), default=1.0)
    plots = [
        _plot("Goodput: share of the requests that met their objectives", rows, [one.goodput for one in figures]),
        _plot("Interactive requests that met theirs", rows, [one.interactive_attainment for one in figures]),
        _plot("Prefix hit rate", rows, [one.prefix_hit_rate for one in figures]),
        _plot("TTFT, 95th percentile", rows, [one.ttft_ms.p95 / 1000 for one in figures], slowest / 1000, " s"),
        _plot(
            "Time per output token, 95th percentile",
            rows,
            [one.tpot_ms.p95 for one in figures],
            max((one.tpot_ms.p95 for one in figures), default=1.0),
            " ms",
        ),
    ]
    if any(one.batch_attainment is not None for one in figures):
        plots.insert(2, _plot("Batch requests that met theirs", rows, [one.batch_attainment for one in figures]))
    legend = "".join(
        f'<li><span style="background:{colour}"></span>{escape(kind.value.replace("_", " "))}</li>'
        for kind, colour in COLOURS.items()
    )
    said = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>body{{font-family:sans-serif;margin:2em;max-width:60em}}"
        "li span{display:inline-block;width:1em;height:1em;margin-right:.5em}ul{list-style:none;padding:0}"
        f"svg{{display:block;margin:1.5em 0}}</style></head><body><h1>{escape(title)}</h1><ul>{said}</ul>"
        f"<ul>{legend}</ul>{''.join(plots)}</body></html>\n"
    )


def row_name(row: Row) -> str:
    """Of a row, for people."""
    if row.case.kind is Kind.ORACLE:
        return "oracle"
    if row.case.kind is Kind.EARLY_BINDING:
        return row.case.placement
    return f"{row.case.policy} · {row.case.placement}"


def _plot(title: str, rows: Sequence[Row], values: Sequence[float | None], most: float = 1.0, unit: str = "") -> str:
    return bars(
        title,
        [(row_name(row), row.case.kind, value) for row, value in zip(rows, values, strict=True)],
        most=most,
        unit=unit,
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.0f}"
