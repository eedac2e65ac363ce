"""A request on its way in: what a gateway submits, and what a scheduler sees of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .priority import RequestPriority
from .states import RequestKind

WIRE_VERSION = 1
"""Version of the records and messages. Readers ignore fields that they do not know."""

MAX_ID_LENGTH = 64
"""Characters in a request id; longer values would leave Redis's compact hash encoding."""

_REQUEST_ID = re.compile(rf"[A-Za-z0-9._~@=+-]{{1,{MAX_ID_LENGTH}}}")


def is_request_id(text: str) -> bool:
    """Whether the text may be a request id: it becomes part of key names, so it holds no colon and no space."""
    return _REQUEST_ID.fullmatch(text) is not None


class BadEntry(ValueError):
    """A stream entry that cannot be read; the text says why."""


@dataclass(slots=True, frozen=True)
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
    """Its tenant's share among tenants."""
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
    trace_id: str = ""
    traceparent: str = ""
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
            kind=self.kind,
            **{name: getattr(self, name) for name in _ALIKE},
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
    """Engines on which an attempt of it failed, the last one last. It gets that one only if there is no other, and the
    others if none has room that has not failed it."""
    stage: str = ""
    """``decode``: an engine has read its prompt, and another one is to answer; ``prefill``: it is the prompt of another
    request, to be read for the engine that holds that one; empty: nothing has been done yet."""


_ALIKE = (
    *("tenant", "model", "slo_ms", "tpot_slo_ms", "timeout_ms", "queue_ttl_ms", "prompt_tokens", "max_tokens"),
    *("session", "prefix", "reject_late", "weight", "stage"),
)
"""What a request and its arrival have in common, under the same names."""

_CLASSES = {str(int(priority)): priority for priority in RequestPriority}
_TEXTS = ("tenant", "model", "kind", "session")
_COUNTS = ("slo_ms", "tpot_slo_ms", "timeout_ms", "prompt_tokens", "max_tokens", "queue_ttl_ms")

SCHEDULING_FIELDS = (
    "priority",
    "arrived_ms",
    *_TEXTS,
    *_COUNTS,
    "prefix",
    "reject_late",
    "weight",
    "excluded",
    "stage",
)
"""The fields of a record (and of an intake entry) that an ``Arrival`` is read from."""


def is_count(text: str) -> bool:
    """Whether the text is a whole number that a counter, or a time in ms, can have."""
    return len(text) <= 15 and text.isascii() and text.isdecimal()


def _read_count(fields: Mapping[str, str], name: str) -> int:
    text = fields.get(name)
    if not text:
        return 0
    if not is_count(text):
        raise BadEntry(f"field {name!r} must be a whole number below 10^15, not {text[:40]!r}")
    return int(text)


def _read_time(text: str) -> float:
    whole, _, fraction = text.partition(".")
    if not is_count(whole) or (fraction and not is_count(fraction)):
        raise BadEntry(f"field 'arrived_ms' must be a time in ms since the epoch, not {text[:40]!r}")
    return float(text)


def _read_weight(text: str | None) -> float:
    if not text:
        return 1.0
    whole, _, fraction = text.partition(".")
    if not is_count(whole) or (fraction and not is_count(fraction)) or float(text) <= 0:
        raise BadEntry(f"field 'weight' must be a number above 0, not {text[:40]!r}")
    return float(text)


def read_arrival(request_id: str, fields: Mapping[str, str]) -> Arrival:
    """Read an arrival from the fields of an intake entry or of a record.

    Raises:
        BadEntry: names the field that is missing or wrong.
    """
    try:
        level, arrived = fields["priority"], fields["arrived_ms"]
    except KeyError as error:
        raise BadEntry(f"field {error.args[0]!r} is missing") from None
    if level not in _CLASSES:
        raise BadEntry(f"field 'priority' must be one of {', '.join(_CLASSES)}, not {level[:40]!r}")
    excluded, prefix = fields.get("excluded"), fields.get("prefix")
    return Arrival(
        id=request_id,
        priority=_CLASSES[level],
        arrived_ms=_read_time(arrived),
        tenant=fields.get("tenant") or "",
        model=fields.get("model") or "",
        slo_ms=_read_count(fields, "slo_ms"),
        tpot_slo_ms=_read_count(fields, "tpot_slo_ms"),
        timeout_ms=_read_count(fields, "timeout_ms"),
        prompt_tokens=_read_count(fields, "prompt_tokens"),
        max_tokens=_read_count(fields, "max_tokens"),
        queue_ttl_ms=_read_count(fields, "queue_ttl_ms"),
        kind=fields.get("kind") or "",
        session=fields.get("session") or "",
        prefix=tuple(prefix.split(" ")) if prefix else (),
        reject_late=fields.get("reject_late") == "1",
        weight=_read_weight(fields.get("weight")),
        excluded=tuple(excluded.split(" ")) if excluded else (),
        stage=fields.get("stage") or "",
    )
