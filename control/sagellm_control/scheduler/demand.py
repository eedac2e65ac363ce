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
    WHOLE_OR_PAIR = "whole_or_pair"
    """The whole; or the decode, for which the engine's worker will have another engine read the prompt."""
    BEGIN_OR_PAIR = "begin_or_pair"
    PREFILL = "prefill"
    """The prompt of a request that a paired engine holds."""


_BOTH = {EngineRole.GENERAL, EngineRole.HYBRID}
_ROLES = {
    Part.WHOLE: _BOTH,
    Part.BEGIN: _BOTH | {EngineRole.PREFILL},
    Part.DECODE: _BOTH | {EngineRole.DECODE},
    Part.WHOLE_OR_PAIR: _BOTH,
    Part.BEGIN_OR_PAIR: _BOTH | {EngineRole.PREFILL},
    Part.PREFILL: frozenset[EngineRole](),
}
_PAIRED_ROLES = {
    Part.WHOLE_OR_PAIR: EngineRole.DECODE,
    Part.BEGIN_OR_PAIR: EngineRole.DECODE,
    Part.PREFILL: EngineRole.PREFILL,
}


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
        (not model or model in row.models) and (not kind or takes(row, kind)) and (not part or _does(row, Part(part)))
    )


def _does(row: EngineRow, part: Part) -> bool:
    return row.role is _PAIRED_ROLES.get(part) if row.is_paired else row.role in _ROLES[part]
