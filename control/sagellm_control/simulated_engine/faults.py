"""Which request meets which fault: drawn from a seeded generator, or asked for by a header of the request."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from pydantic import ValidationError

from .refusal import Refusal
from .settings import FaultSettings

# The request header that asks for a fault: fail, hang, cut, cut=<tokens>, garbage or status=<400…599>.
FAULT_HEADER = "X-Simulate-Fault"


class FaultKind(StrEnum):
    FAIL = "fail"
    HANG = "hang"
    CUT = "cut"
    GARBAGE = "garbage"


_KIND_NAMES = frozenset(kind.value for kind in FaultKind)


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    status: int = 500
    after_tokens: int = 0
    retry_after_s: int = 0


class Faults:
    """The faults that are switched on, and how many of each were made."""

    def __init__(self, settings: FaultSettings) -> None:
        self.made: Counter[FaultKind] = Counter()
        self._switch(FaultSettings(**{name: getattr(settings, name) for name in FaultSettings.model_fields}))

    @property
    def settings(self) -> FaultSettings:
        return self._settings

    def change(self, changes: dict[str, object]) -> None:
        """Merge `changes` into the settings and begin the draws anew, from fault_seed."""
        try:
            self._switch(FaultSettings.model_validate(self._settings.model_dump() | changes))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or None
            known = ", ".join(FaultSettings.model_fields)
            reason = f"not a fault setting; known: {known}" if first["type"] == "extra_forbidden" else first["msg"]
            raise Refusal(400, f"{name or 'faults'}: {reason}", param=name) from error

    def choose(self, header: str | None) -> Fault | None:
        """The fault that the next request meets. One draw a request, so a run can be repeated."""
        fault = self._asked_for(header) if header is not None else self._drawn()
        if fault is not None:
            self.made[fault.kind] += 1
        return fault

    def _switch(self, settings: FaultSettings) -> None:
        self._settings = settings
        self._random = random.Random(settings.fault_seed)
        self._steps = [
            (settings.fail_rate, FaultKind.FAIL),
            (settings.hang_rate, FaultKind.HANG),
            (settings.cut_rate, FaultKind.CUT),
            (settings.garbage_rate, FaultKind.GARBAGE),
        ]
        self._any = any(rate for rate, _ in self._steps)

    def _drawn(self) -> Fault | None:
        if not self._any:
            return None
        draw = self._random.random()
        for rate, kind in self._steps:
            if draw < rate:
                return self._fault(kind)
            draw -= rate
        return None

    def _asked_for(self, header: str) -> Fault:
        name, has_value, value = header.strip().lower().partition("=")
        if name == "status" and value.isdecimal() and 400 <= int(value) <= 599:
            return self._fault(FaultKind.FAIL, status=int(value))
        if name == "cut" and has_value and value.isdecimal():
            return self._fault(FaultKind.CUT, after_tokens=int(value))
        if name in _KIND_NAMES and not has_value:
            return self._fault(FaultKind(name))
        allowed = "fail, hang, cut, cut=<tokens>, garbage, status=<400 to 599>"
        raise Refusal(400, f"{FAULT_HEADER}: {header!r} is not one of: {allowed}", param=FAULT_HEADER)

    def _fault(self, kind: FaultKind, *, status: int | None = None, after_tokens: int | None = None) -> Fault:
        return Fault(
            kind=kind,
            status=self._settings.fail_status if status is None else status,
            after_tokens=self._settings.cut_after_tokens if after_tokens is None else after_tokens,
            retry_after_s=self._settings.retry_after_s,
        )
