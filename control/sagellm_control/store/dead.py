"""The dead stream as people want to see it: what was given up, why, and how to send it again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from pydantic import BaseModel

from ..wire.priority import RequestPriority
from ..wire.request import BadEntry, NewRequest, is_count, read_weight
from ..wire.states import RequestKind
from ..wire.trace_context import TraceContext
from .connect import Store
from .inspect import list_pools, server_ms, texts
from .steps.accept import Accepted, AcceptLimits, Full, accept

_KINDS = frozenset(map(str, RequestKind))
_LEVELS = frozenset(str(int(priority)) for priority in RequestPriority)
_ENTRY = re.compile(r"\d{1,19}-\d{1,19}")
PAGE = 500
"""Entries read at once when a request is looked for."""


class NotRetried(Exception):
    """It cannot be sent again; the text says why."""


class DeadLetter(BaseModel):
    """One entry of a dead stream."""

    pool: str
    entry: str
    """Its id in the stream; the first part is when it was given up, in ms since the epoch."""
    request_id: str
    reason: str
    age_s: float
    """Since it was given up."""
    kind: str = ""
    priority: str = ""
    tenant: str = ""
    deliveries: int = 0
    """How often it was assigned to an engine."""
    failures: int = 0
    """Attempts that an engine failed."""
    lapses: int = 0
    """Attempts whose worker was lost."""
    engines: list[str] = []
    """Those on which an attempt went wrong, and the last one."""
    errors: list[str] = []
    """``ATTEMPT ENGINE WHAT``, oldest first."""
    body_bytes: int = 0
    can_retry: bool = False
    """False: it never was a request, only an entry that nobody could read, or its body is gone."""
    record: dict[str, str] = {}
    """The request's record, or the fields of an entry that could not be read."""


@dataclass(slots=True, frozen=True)
class Retried:
    """A dead request that has been sent again."""

    letter: DeadLetter
    request_id: str
    """Of the new request."""


async def list_dead(store: Store, pool: str | None = None, *, limit: int = 100, before: str = "+") -> list[DeadLetter]:
    """The newest first; the next page is what is ``before`` the last entry of this one."""
    upper = before if before == "+" else f"({before}"
    found: list[DeadLetter] = []
    for name in [pool] if pool else await list_pools(store):
        now = await server_ms(store, name)
        entries = await store.commands.xrevrange(store.keys.pool(name).dead, max=upper, count=limit)
        found += [_read(name, entry, fields, now) for entry, fields in entries]
    found.sort(key=lambda letter: tuple(map(int, letter.entry.split("-"))), reverse=True)
    return found[:limit]


async def find_dead(store: Store, word: str, pool: str | None = None) -> list[DeadLetter]:
    """The entries of this id, or of the request of this id; newest first."""
    found: list[DeadLetter] = []
    for name in [pool] if pool else await list_pools(store):
        now = await server_ms(store, name)
        stream = store.keys.pool(name).dead
        if _ENTRY.fullmatch(word):
            entries = await store.commands.xrange(stream, min=word, max=word)
            found += [_read(name, entry, fields, now) for entry, fields in entries]
        upper = "+"
        while not found and (page := await store.commands.xrevrange(stream, max=upper, count=PAGE)):
            wanted = [(e, fields) for e, fields in page if fields.get(b"request") == word.encode()]
            found += [_read(name, entry, fields, now) for entry, fields in wanted]
            upper = f"({page[-1][0].decode()}"
    return found


async def retry_dead(store: Store, letter: DeadLetter) -> Retried:
    """Send it again, as a new request, and take it out of the dead stream.

    Its client has been told that it failed, and a request ends once: so the new one has an id of its own, made from
    the entry's. A retry that is cut off half way, or made by two people, makes one request.

    Raises:
        NotRetried: it was no request, its body is gone, or the queue is full.
    """
    if not letter.can_retry:
        raise NotRetried(f"{letter.entry} is no whole request: {letter.reason}")
    keys = store.keys.pool(letter.pool)
    entries = await store.commands.xrange(keys.dead, min=letter.entry, max=letter.entry)
    if not entries:
        raise NotRetried(f"{letter.entry} is gone: somebody else has dropped it or sent it again")
    known = letter.record
    trace = TraceContext.decode(known.get("trace", ""))
    request = NewRequest(
        id=f"retry-{letter.entry}",
        pool=letter.pool,
        kind=RequestKind(known["kind"]),
        body=entries[0][1][b"body"],
        inbox="",
        ticket=letter.entry,
        priority=RequestPriority(int(known["priority"])),
        tenant=known.get("tenant", ""),
        model=known.get("model", ""),
        stream=known.get("stream") == "1",
        trace=trace if trace.trace_id else replace(trace, trace_id=letter.request_id),
        session=known.get("session", ""),
        prefix=tuple(known["prefix"].split(" ")) if known.get("prefix") else (),
        reject_late=known.get("reject_late") == "1",
        continuable=known.get("continue") == "1",
        timeout_ms=_count(known, "timeout_ms"),
        slo_ms=_count(known, "slo_ms"),
        tpot_slo_ms=_count(known, "tpot_slo_ms"),
        prompt_tokens=_count(known, "prompt_tokens"),
        max_tokens=_count(known, "max_tokens"),
        weight=_weight(known),
    )
    limits = AcceptLimits(without_engine=True, keep_result_ms=_count(known, "keep_ms") or 600_000)
    match (await accept(store, letter.pool, [request], limits))[0]:
        case Accepted():
            await drop_dead(store, [letter])
            return Retried(letter, request.id)
        case Full(waiting):
            raise NotRetried(f"the queue of {letter.pool!r} is full: {waiting} requests wait")
        case other:
            raise NotRetried(f"the queue did not take it: {other}")


async def drop_dead(store: Store, letters: Sequence[DeadLetter]) -> int:
    """Delete entries; how many were there."""
    dropped = 0
    for letter in letters:
        dropped += int(await store.commands.xdel(store.keys.pool(letter.pool).dead, letter.entry))
    return dropped


def _read(pool: str, entry: bytes, raw: dict[bytes, bytes], now: float) -> DeadLetter:
    body = raw.get(b"body")
    fields = texts({name: value for name, value in raw.items() if name != b"body"})
    letter = DeadLetter(
        pool=pool,
        entry=entry.decode(),
        request_id=fields.pop("request", ""),
        reason=fields.pop("reason", ""),
        age_s=round((now - int(entry.partition(b"-")[0])) / 1000, 3),
    )
    record = _record(fields.get("record", ""))
    if record is None:
        letter.record = fields
        return letter
    errors = record.get("errors", "").splitlines()
    tried = [words[1] for line in errors if len(words := line.split(" ", 2)) > 1]
    tried += [*record.get("excluded", "").split(), record.get("engine", "")]
    level = record.get("priority", "")
    letter.record = record
    letter.kind, letter.tenant = record.get("kind", ""), record.get("tenant", "")
    letter.priority = RequestPriority(int(level)).label if level in _LEVELS else level
    letter.deliveries = _count(record, "attempt")
    letter.failures, letter.lapses = _count(record, "failures"), _count(record, "lapses")
    letter.engines = list(dict.fromkeys(filter(None, tried)))
    letter.errors = errors
    letter.body_bytes = len(body or b"")
    letter.can_retry = bool(body) and letter.kind in _KINDS and level in _LEVELS
    return letter


def _record(text: str) -> dict[str, str] | None:
    try:
        record: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return {str(name): str(value) for name, value in record.items()} if isinstance(record, dict) else None


def _count(record: Mapping[str, str], name: str) -> int:
    text = record.get(name, "")
    return int(text) if is_count(text) else 0


def _weight(record: Mapping[str, str]) -> float:
    try:
        return read_weight("weight", record.get("weight", "1"))
    except BadEntry:
        return 1.0
