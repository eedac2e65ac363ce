"""Tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import click
from pydantic import BaseModel

_PIPE_WIDTH = 240
"""Columns when the output is no terminal: nothing is cut that somebody greps for."""


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """A table, or the sentence that says why there is none."""
    if not rows:
        click.echo(empty)
        return
    # Only here: it is slow to import, and the processes print no tables.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text: what clients and engines put into names must not be read as rich's markup.
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table)


def print_json(value: BaseModel | Sequence[BaseModel] | dict[str, object]) -> None:
    """The same for machines."""
    if isinstance(value, BaseModel):
        plain: object = value.model_dump(mode="json")
    elif isinstance(value, dict):
        plain = value
    else:
        plain = [item.model_dump(mode="json") for item in value]
    click.echo(json.dumps(plain, indent=2, ensure_ascii=False))


def moment(ms: float) -> str:
    """A time (ms since the epoch) on the clock of whoever reads it."""
    return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(sep=" ", timespec="milliseconds")


def seconds(value: float) -> str:
    """A duration in as few words as help, e.g. ``4.2s``, ``12m30s``."""
    if value < 60:
        return f"{value:.1f}s"
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
