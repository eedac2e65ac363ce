"""Reads traces: the two public forms, by what the file itself says it is.

CSV with a header, as Azure's:     TIMESTAMP,ContextTokens,GeneratedTokens
JSON lines, as Mooncake's:         {"timestamp": ms, "input_length": …, "output_length": …, "hash_ids": […]}
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import orjson

MOST_TOKENS = 100_000_000
"""Of one request; more is a mistake in the file."""

BLOCK_TOKENS = 512
"""Prompt tokens that one of Mooncake's ``hash_ids`` stands for."""


class BadTrace(ValueError):
    """A trace that cannot be read; the text names file, line and field."""


@dataclass(slots=True, frozen=True)
class TraceLine:
    """One request of a trace."""

    at_ms: float
    """Since the first request."""
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[str, ...] = ()
    """One hash a block of ``BLOCK_TOKENS`` of the prompt; equal hashes, equal prompts up to there."""
    tenant: str = ""
    """If the file names one."""


def read_trace(path: Path, *, most: int = 0) -> list[TraceLine]:
    """The requests of a trace, by time.

    Args:
        most: read only so many; 0: all.

    Raises:
        BadTrace: the file cannot be opened, or a line of it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            read = _json_lines(path, file) if first.lstrip().startswith("{") else _csv_lines(path, file)
            lines: list[TraceLine] = []
            for line in read:
                lines.append(line)
                if most and len(lines) == most:
                    break
    except OSError as error:
        raise BadTrace(f"trace {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadTrace(f"trace {path}: it is not text in UTF-8") from None
    except csv.Error as error:
        raise BadTrace(f"trace {path}: {error}") from None
    if not lines:
        raise BadTrace(f"trace {path}: it has no requests")
    lines.sort(key=lambda line: line.at_ms)
    start = lines[0].at_ms
    return [
        TraceLine(line.at_ms - start, line.prompt_tokens, line.output_tokens, line.prefix, line.tenant)
        for line in lines
    ]


def _csv_lines(path: Path, file: Iterator[str]) -> Iterator[TraceLine]:
    rows = csv.DictReader(file)
    while (header := rows.fieldnames) is not None and not "".join(header).strip():
        rows.fieldnames = None  # empty lines before the header: the next one is read when it is asked for
    wanted = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    missing = [name for name in wanted if name not in (rows.fieldnames or ())]
    if missing:
        raise BadTrace(
            f"trace {path}, line 1: there is no column {', '.join(missing)}; "
            'a trace is CSV with the columns TIMESTAMP,ContextTokens,GeneratedTokens or JSON lines with "timestamp", '
            '"input_length" and "output_length"'
        )
    for row in rows:
        where = f"trace {path}, line {rows.line_num}"
        yield TraceLine(
            _csv_time(where, row["TIMESTAMP"]),
            _tokens(where, "ContextTokens", row["ContextTokens"], least=1),
            _tokens(where, "GeneratedTokens", row["GeneratedTokens"], least=0),
            tenant=row.get("Tenant") or "",
        )


def _csv_time(where: str, text: str | None) -> float:
    # 2023-11-16 18:17:03.9799600, or plain seconds.
    try:
        return float(text or "") * 1000
    except ValueError:
        pass
    day, _, fraction = (text or "").partition(".")
    try:
        moment = datetime.fromisoformat(day)
        return (
            moment.replace(tzinfo=None).toordinal() * 86_400_000.0
            + ((moment.hour * 60 + moment.minute) * 60 + moment.second + float(f"0.{fraction or '0'}")) * 1000
        )
    except ValueError:
        raise BadTrace(f"{where}: field TIMESTAMP must be a time like 2023-11-16 18:17:03.97, not {text!r}") from None


def _json_lines(path: Path, file: Iterator[str]) -> Iterator[TraceLine]:
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue
        where = f"trace {path}, line {number}"
        try:
            value: Any = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise BadTrace(f"{where}: it is not JSON: {error.msg}") from None
        if not isinstance(value, dict):
            raise BadTrace(f"{where}: it must be a JSON object, not {text.strip()[:40]!r}")
        fields = cast("dict[str, Any]", value)
        at = fields.get("timestamp")
        if not isinstance(at, int | float) or isinstance(at, bool):
            raise BadTrace(f"{where}: field timestamp must be a time in ms, not {at!r}")
        hashes: Any = fields.get("hash_ids", [])
        if not isinstance(hashes, list):
            raise BadTrace(f"{where}: field hash_ids must be a list, not {hashes!r}")
        yield TraceLine(
            float(at),
            _tokens(where, "input_length", fields.get("input_length"), least=1),
            _tokens(where, "output_length", fields.get("output_length"), least=0),
            tuple(str(block) for block in cast("list[Any]", hashes)),
            str(fields.get("tenant") or ""),
        )


def _tokens(where: str, name: str, value: object, *, least: int) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_TOKENS:
        raise BadTrace(f"{where}: field {name} must be a whole number from {least} to {MOST_TOKENS}, not {value!r}")
    return value
