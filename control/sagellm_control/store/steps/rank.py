"""How a rank is written into the sorted set, so that reading it gives the same number back; and a charge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Charge:
    """By how much a request puts off the next start of its flow, under a fair order."""

    ms: float
    output_tokens: float
    """That it was expected to produce."""
    ms_per_output_token: float
    """What one token more or less comes to."""
    flow: str = ""
    """Who is charged, where that is not the tenant; without spaces."""


def write_rank(rank: float) -> str:
    """Three decimals: ranks are times in ms, and a microsecond tells two arrivals of one batch apart."""
    return f"{rank:.3f}"


def write_credit(credit_ms: float, *, fair: bool) -> str:
    """Of those that had nothing waiting; nothing under an order that is not fair."""
    return f"{credit_ms:.3f}" if fair else ""


def write_charge(charge: Charge) -> str:
    """As it stands in a record."""
    text = f"{charge.ms:.3f} {charge.output_tokens:.1f} {charge.ms_per_output_token:.6f}"
    return f"{text} {charge.flow}" if charge.flow else text
