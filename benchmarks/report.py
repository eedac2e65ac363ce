"""What a benchmark prints, and the JSON file that it leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from .machine import OtherLoad, machine_facts

_COMPLAINTS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is to be reached."""

    name: str
    value: float
    limit: float
    at_most: bool
    unit: str

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass
class Report:
    """The results of one run."""

    benchmark: str
    settings: dict[str, Any]
    server: dict[str, Any] = field(default_factory=dict[str, Any])
    results: dict[str, Any] = field(default_factory=dict[str, Any])
    targets: list[Target] = field(default_factory=list[Target])
    complaints: list[str] = field(default_factory=list[str])
    """Warnings that the processes under test logged, and answers that were not whole."""
    machine: dict[str, Any] = field(default_factory=machine_facts)
    others: OtherLoad = field(default_factory=OtherLoad)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        # Piped into a file there is no terminal to ask; 80 columns would break the tables.
        self.console = Console() if Console().is_terminal else Console(width=120)

    def note(self, text: str) -> None:
        """Tell what is being done."""
        self.console.print(f"[dim]{text}[/dim]", highlight=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; the first column is text, the others are numbers."""
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        for i, column in enumerate(columns):
            table.add_column(column, justify="right" if i else "left")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def finish(self, path: Path | None) -> None:
        """Print the targets, the complaints and the machine; write the JSON file."""
        if self.targets:
            rows = [
                [
                    target.name,
                    f"{target.value:,.2f} {target.unit}",
                    f"{'≤' if target.at_most else '≥'} {target.limit:,.10g}",
                    "[green]met[/green]" if target.met else "[red]missed[/red]",
                ]
                for target in self.targets
            ]
            self.table("Targets", ["", "measured", "wanted", ""], rows)
        for line in self.complaints[:_COMPLAINTS_SHOWN]:
            self.console.print(f"[yellow]![/yellow] {line}", highlight=False, markup=True)
        if len(self.complaints) > _COMPLAINTS_SHOWN:
            self.console.print(f"[yellow]![/yellow] … and {len(self.complaints) - _COMPLAINTS_SHOWN} more")
        m, s = self.machine, self.server
        m["taken_by_others"] = self.others.fraction()
        libraries = ", ".join(f"{name} {number}" for name, number in m["libraries"].items())
        self.note(
            f"{m['cores']} × {m['cpu']}, {m['memory_gb']} GB, {m['system']}, Python {m['python']}, "
            f"{s.get('server')} {s.get('version')} ({s.get('allocator')}, append-only file "
            f"{'on' if s.get('append_only_file') else 'off'}); {libraries}"
        )
        self.note(f"other processes took {m['taken_by_others'] or 0:.0%} of the machine meanwhile")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # orjson makes null of a figure of nothing, as a percentile without values; json would write NaN, no JSON.
            plain = orjson.loads(orjson.dumps(self._json(), default=str, option=orjson.OPT_NON_STR_KEYS))
            path.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n")
            self.note(f"written to {path}")

    def _json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "began": self.began.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - self.began).total_seconds(), 1),
            "machine": self.machine,
            "server": self.server,
            "settings": self.settings,
            "results": self.results,
            "targets": [
                {
                    "name": t.name,
                    "value": round(t.value, 4),
                    "limit": t.limit,
                    "at_most": t.at_most,
                    "unit": t.unit,
                    "met": t.met,
                }
                for t in self.targets
            ],
            "complaints": self.complaints,
        }
