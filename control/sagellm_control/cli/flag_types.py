"""Types of flags, where click's own let through what only fails later."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, cast

import click


class Number(click.FloatRange):
    """A number; ``nan`` is within every range of click's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


class NewFile(click.Path):
    """A file that is written at the end of a long run; that it cannot be is said before. ``-``: standard output."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, allow_dash=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = cast(Path, super().convert(value, param, ctx))
        folder = path.absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            self.fail(f"there is no folder {folder} that can be written to", param, ctx)
        return path


def write_text(path: Path, text: str) -> None:
    """Write what a ``NewFile`` is for."""
    if str(path) == "-":
        click.echo(text, nl=False)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
