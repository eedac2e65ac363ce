"""What the decisions of one commit have in common, whichever step carries them out."""

from __future__ import annotations

from dataclasses import dataclass

INLINE_BODY_BYTES = 16_384
"""Bodies up to this size travel inside the assigned entry; larger ones are read from their key by the worker."""


@dataclass(slots=True, frozen=True)
class Rules:
    """What the decisions of one commit have in common."""

    epoch: str = "0"
    """Of the policy under which the ranks were computed."""
    fair: bool = False
    """The ranks are handicaps on the start of the request's tenant."""
    placement: str = ""
    """Its name, kept in the record of whoever was placed by it."""
    log_prefixes: bool = False
    """It wants to know which engine was given which prefixes."""
    credit_ms: float = 0.0
    """Under a fair order: how far before the virtual time those start that had nothing waiting."""


PLAIN = Rules()
