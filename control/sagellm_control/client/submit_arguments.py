"""What a caller may hand to ``submit``: checked before anything of it goes to Redis, whose scripts would not say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import orjson

from ..wire.priority import RequestPriority
from ..wire.request import LEAST_WEIGHT, MAX_ID_LENGTH, MOST_WEIGHT, is_request_id
from ..wire.states import RequestKind
from ..wire.trace_context import TraceContext
from .scheduling_hints import SchedulingHints

LONGEST_S = 1e9
"""Of any time that is given (s): thirty years. Schedulers do not read one that is much longer."""
COUNTS_BELOW = 10**15
"""Of any count: readers take no more than fifteen digits."""
_HINTS = frozenset(SchedulingHints.__annotations__)


def read_priority(given: object) -> RequestPriority:
    """The class, its name in any case, or its number. Raises ValueError."""
    if isinstance(given, RequestPriority):
        return given
    try:
        if isinstance(given, str):
            return RequestPriority.parse(given)
        if isinstance(given, int) and not isinstance(given, bool):
            return RequestPriority(given)
    except ValueError:
        pass
    classes = ", ".join(f"{each.name} ({each.value})" for each in RequestPriority)
    raise ValueError(f"priority must be one of {classes}, not {given!r}")


def read_kind(given: object) -> RequestKind:
    """The kind, or its name. Raises ValueError."""
    try:
        return RequestKind(given)
    except ValueError:
        raise ValueError(f"kind must be one of {', '.join(RequestKind)}, not {given!r}") from None


def read_body(given: object, model: str, stream: bool) -> bytes:
    """The bytes for the engine; a mapping gets ``model`` and ``stream`` filled in. Raises ValueError."""
    if isinstance(given, bytes):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"body must be an OpenAI request, as a mapping or as bytes, not {type(given).__name__}")
    try:
        return orjson.dumps({"model": model, "stream": stream, **given})
    except TypeError as error:
        raise ValueError(f"body must be what JSON can say: {error}") from error


def milliseconds(name: str, seconds: Any) -> int:
    """A time in seconds; 0: none was given. Raises ValueError."""
    if seconds is None:
        return 0
    if not _is_number(seconds) or not 0 <= seconds <= LONGEST_S:
        raise ValueError(f"{name} must be a time from 0 to {LONGEST_S:.0f} seconds, not {seconds!r}")
    return max(1, round(seconds * 1000))


def check(
    model: object,
    request_id: object,
    hints: Mapping[str, Any],
    *,
    tenant: object,
    trace: object,
    prompt_tokens: object,
    max_tokens: object,
) -> None:
    """See that what is sent as it was given can be sent.

    Raises:
        ValueError: names the argument.
        TypeError: there is no hint of that name.
    """
    if request_id is not None and not (isinstance(request_id, str) and is_request_id(request_id)):
        raise ValueError(f"request_id must be 1 to {MAX_ID_LENGTH} letters, digits or ._~@=+-, not {request_id!r}")
    _check_texts(model=model, tenant=tenant)
    _check_trace(trace)
    _check_counts(prompt_tokens=prompt_tokens, max_tokens=max_tokens)
    _check_hints(hints)


def _check_texts(**given: object) -> None:
    for name, value in given.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} must be text, not {value!r}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} must be text that UTF-8 can say, not {value!r}") from None


def _check_trace(trace: object) -> None:
    if not isinstance(trace, TraceContext):
        raise ValueError(f"trace must be a TraceContext, not {trace!r}")
    _check_texts(**{f"trace.{name}": value for name, value in asdict(trace).items()})


def _check_counts(**given: object) -> None:
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < COUNTS_BELOW:
            raise ValueError(f"{name} must be a whole number from 0 to {COUNTS_BELOW - 1}, not {value!r}")


def _check_hints(hints: Mapping[str, Any]) -> None:
    for name, value in hints.items():
        match name:
            case "tpot_slo_ms" | "queue_ttl_ms":
                _check_counts(**{name: value})
            case "session":
                _check_texts(session=value)
            case "weight":
                if not _is_number(value) or not LEAST_WEIGHT <= value <= MOST_WEIGHT:
                    raise ValueError(f"weight must be a number from {LEAST_WEIGHT} to {MOST_WEIGHT:.0f}, not {value!r}")
            case "prefix":
                if not isinstance(value, tuple) or not {str}.issuperset(map(type, cast("tuple[object]", value))):
                    raise ValueError(f"prefix must be a tuple of the hashes of the prompt's blocks, not {value!r}")
                _check_texts(**{f"prefix[{i}]": block for i, block in enumerate(cast("tuple[str]", value))})
            case "reject_late":
                if not isinstance(value, bool):
                    raise ValueError(f"reject_late must be True or False, not {value!r}")
            case _:
                known = ", ".join(sorted(_HINTS))
                raise TypeError(f"submit() has no argument {name!r}; beside those in its signature: {known}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
