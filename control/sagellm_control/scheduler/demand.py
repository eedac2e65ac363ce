"""What engines are asked for, and which of them meet it."""

from __future__ import annotations

from enum import StrEnum

from ..wire.engine import EngineRole, EngineRow
from ..wire.states import RESERVATIONS, RequestKind

Demand = tuple[str, str, str]
"""A model's name ("": the pool's own), a kind of request ("": any) and a ``Part``."""

ANY: Demand = ("", "", "")

NOT_SEPARABLE = frozenset({RequestKind.EMBEDDING, *RESERVATIONS})
"""Kinds of request that have no decode, or that a program runs itself."""


class Part(StrEnum):
    """Which part of a request an engine is wanted for."""

    ANY = ""
    WHOLE = "whole"
    BEGIN = "begin"
    """The whole, or the prefill alone."""
    DECODE = "decode"


_BOTH = {EngineRole.GENERAL, EngineRole.HYBRID}
_ROLES = {Part.WHOLE: _BOTH, Part.BEGIN: _BOTH | {EngineRole.PREFILL}, Part.DECODE: _BOTH | {EngineRole.DECODE}}


def is_separated(row: EngineRow) -> bool:
    """Whether the engine takes only one of the two stages."""
    return row.role not in _BOTH


def takes(row: EngineRow, kind: str) -> bool:
    """Whether the engine takes requests of this kind."""
    return not row.kinds or kind in row.kinds


def meets(row: EngineRow, demand: Demand) -> bool:
    """Whether the engine is one of those asked for."""
    model, kind, part = demand
    return (
        (not model or model in row.models)
        and (not kind or takes(row, kind))
        and (not part or row.role in _ROLES[Part(part)])
    )
