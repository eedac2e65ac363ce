"""A request on its way in: what a gateway submits, and what a scheduler sees of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .priority import RequestPriority
from .states import RequestKind
from .trace_context import NO_TRACE, TraceContext

WIRE_VERSION = 1
"""Version of the records and messages. Readers ignore fields that they do not know."""

MAX_ID_LENGTH = 64
"""Characters in a request id; longer values would leave Redis's compact hash encoding."""

LONGEST_SESSION = 256
"""Characters in the name of a session."""
CHARACTERS_A_TOKEN = 4
"""A coarse estimate of a prompt's tokens; engines count for themselves."""

LEAST_WEIGHT, MOST_WEIGHT = 0.0001, 1000.0
"""Of a tenant's share among tenants; in a record they stand as decimals, without an exponent."""

_REQUEST_ID = re.compile(rf"[A-Za-z0-9._~@=+-]{{1,{MAX_ID_LENGTH}}}")


def is_request_id(text: str) -> bool:
    """Whether the text may be a request id: it becomes part of key names, so it holds no colon and no space."""
    return _REQUEST_ID.fullmatch(text) is not None


class BadEntry(ValueError):
    """A stream entry that cannot be read; the text says why."""


@dataclass(slots=True)  # not frozen: that costs ten microseconds each
class NewRequest:
    """A request as a gateway hands it to ``accept``."""

    id: str
    pool: str
    kind: RequestKind
    body: bytes
    """The client's JSON, unchanged."""
    inbox: str
    """Channel on which its output is published."""
    ticket: str
    """Random; tells a repeated accept of this very submission from a second request of the same id."""
    priority: RequestPriority = RequestPriority.NORMAL
    tenant: str = ""
    model: str = ""
    """The name the client asked for, where it is not the pool's own (an alias, a LoRA adapter)."""
    stream: bool = False
    timeout_ms: int = 0
    """From accept to the last byte; 0: none."""
    slo_ms: int = 0
    """Objective for the first token, from accept; 0: none."""
    tpot_slo_ms: int = 0
    """Objective for the mean time per output token; 0: none."""
    reject_late: bool = False
    """Refuse it as soon as it cannot meet its objective any more."""
    weight: float = 1.0
    """Its tenant's share among tenants, from ``LEAST_WEIGHT`` to ``MOST_WEIGHT``."""
    queue_ttl_ms: int = 0
    """For how long it may wait for an engine, from accept; 0: as long as its timeout allows."""
    session: str = ""
    """What a client names to have its requests on one engine."""
    prefix: tuple[str, ...] = ()
    """Chained hashes of the prompt's blocks, the first block first: equal hashes, equal prompts up to there."""
    prompt_tokens: int = 0
    """Estimate."""
    max_tokens: int = 0
    """Most that the client asked for; 0: it did not say."""
    trace: TraceContext = NO_TRACE
    """For the engine."""
    attempt: int = 0
    """Attempts are counted from here; above 0 where it is submitted again and an earlier attempt may still run."""
    continuable: bool = False
    """Should its engine be lost in the middle of the answer, another one may go on with it."""
    orphan_grace_ms: int = 0
    """Cancelled when nobody has listened for so long; 0: it goes on for whoever may come."""
    stage: str = ""
    """``prefill``: only the prompt of another request, see ``Stage.PREFILL``; empty: a request."""

    @property
    def fingerprint(self) -> str:
        """Tells a retry (same bytes) from another request under the same id."""
        return hashlib.blake2b(self.body, digest_size=8, person=b"request").hexdigest()

    def arrival(self, arrived_ms: float) -> Arrival:
        """What a scheduler would read of it, had it been accepted at this time (server time, ms since the epoch)."""
        return Arrival(
            id=self.id,
            priority=self.priority,
            arrived_ms=arrived_ms,
            tenant=self.tenant,
            model=self.model,
            slo_ms=self.slo_ms,
            tpot_slo_ms=self.tpot_slo_ms,
            timeout_ms=self.timeout_ms,
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.max_tokens,
            kind=self.kind,
            session=self.session,
            prefix=self.prefix,
            reject_late=self.reject_late,
            weight=self.weight,
            queue_ttl_ms=self.queue_ttl_ms,
            stage=self.stage,
        )


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Arrival:
    """What a scheduler sees of a request: enough to rank and place it, and no prompt."""

    id: str
    priority: RequestPriority
    arrived_ms: float
    """Server time at accept, in ms since the epoch; the fraction keeps the order of one millisecond."""
    tenant: str = ""
    model: str = ""
    slo_ms: int = 0
    tpot_slo_ms: int = 0
    timeout_ms: int = 0
    prompt_tokens: int = 0
    max_tokens: int = 0
    kind: str = ""
    """See ``RequestKind``."""
    session: str = ""
    prefix: tuple[str, ...] = ()
    reject_late: bool = False
    weight: float = 1.0
    """Its tenant's share among tenants."""
    queue_ttl_ms: int = 0
    """For how long it may wait for an engine, from accept; 0: as long as its timeout allows."""
    excluded: tuple[str, ...] = ()
    """Engines on which an attempt of it failed, the last one last. It gets that one only when a bounded time is over or
    there is no other, and the others if none has room that has not failed it."""
    excluded_ms: float = 0.0
    """Server time at which the last of them failed it."""
    stage: str = ""
    """``decode``: an engine has read its prompt, and another one is to answer; ``prefill``: it is the prompt of another
    request, to be read for the engine that holds that one; empty: nothing has been done yet."""


_CLASSES = {str(int(priority)): priority for priority in RequestPriority}


def is_count(text: str) -> bool:
    """Whether the text is a whole number that a counter, or a time in ms, can have."""
    return len(text) <= 15 and text.isascii() and text.isdecimal()


def _read_text(_name: str, text: str) -> str:
    return text


def _read_count(name: str, text: str) -> int:
    if not is_count(text):
        raise BadEntry(f"field {name!r} must be a whole number below 10^15, not {text[:40]!r}")
    return int(text)


def _read_words(_name: str, text: str) -> tuple[str, ...]:
    return tuple(text.split(" "))


def _read_flag(_name: str, text: str) -> bool:
    return text == "1"


def _read_class(name: str, text: str) -> RequestPriority:
    if text not in _CLASSES:
        raise BadEntry(f"field {name!r} must be one of {', '.join(_CLASSES)}, not {text[:40]!r}")
    return _CLASSES[text]


def _read_time(name: str, text: str) -> float:
    whole, _, fraction = text.partition(".")
    if not is_count(whole) or (fraction and not is_count(fraction)):
        raise BadEntry(f"field {name!r} must be a time in ms since the epoch, not {text[:40]!r}")
    return float(text)


def read_weight(name: str, text: str) -> float:
    """A tenant's share, from its text.

    Raises:
        BadEntry: it is no decimal number above 0.
    """
    whole, _, fraction = text.partition(".")
    if not is_count(whole) or (fraction and not is_count(fraction)) or float(text) <= 0:
        raise BadEntry(f"field {name!r} must be a number above 0, not {text[:40]!r}")
    return float(text)


_READERS: dict[str, Callable[[str, str], Any]] = {
    "priority": _read_class,
    **dict.fromkeys(("arrived_ms", "excluded_ms"), _read_time),
    **dict.fromkeys(("tenant", "model", "kind", "session", "stage"), _read_text),
    **dict.fromkeys(
        ("slo_ms", "tpot_slo_ms", "timeout_ms", "prompt_tokens", "max_tokens", "queue_ttl_ms"), _read_count
    ),
    **dict.fromkeys(("prefix", "excluded"), _read_words),
    "reject_late": _read_flag,
    "weight": read_weight,
}

SCHEDULING_FIELDS = tuple(_READERS)
"""The fields of a record (and of an intake entry) that an ``Arrival`` is read from."""


def read_arrival(request_id: str, fields: Mapping[str, str]) -> Arrival:
    """Read an arrival from the fields of an intake entry or of a record; an empty field is none.

    Raises:
        BadEntry: names the field that is missing or wrong.
    """
    known: dict[str, Any] = {}
    for name, text in fields.items():
        if text and (read := _READERS.get(name)) is not None:
            known[name] = read(name, text)
    for name in ("priority", "arrived_ms"):
        if name not in known:
            raise BadEntry(f"field {name!r} is missing")
    return Arrival(request_id, **known)
