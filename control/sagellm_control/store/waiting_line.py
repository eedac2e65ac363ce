"""The waiting set from its head, as a scheduler looks at it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ..wire.keys import read_name
from ..wire.priority import RequestPriority
from ..wire.request import SCHEDULING_FIELDS, Arrival, BadEntry, is_count, read_arrival
from .connect import Store
from .steps.condemn import condemn

log = logging.getLogger(__name__)

MOST_REMEMBERED = 20_000
"""Records kept of requests that were looked at and could not be placed."""

_FIELDS = ("attempt", "late", "epoch", *SCHEDULING_FIELDS)


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Waiting:
    """A request in the waiting set."""

    arrival: Arrival
    attempts: int
    """How many it has had so far."""
    rank: float
    late: bool
    """It has stepped back before."""
    epoch: str
    """Of the policy that gave it its rank."""
    unreadable: str = ""
    """What is wrong with its record; empty: nothing, or it has none."""


class WaitingLine:
    """Reads the line, and remembers whom it has met: those who are passed are met again and again."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._keys = store.keys.pool(pool)
        self._met: dict[str, Waiting] = {}

    async def read(self, start: int, count: int) -> list[Waiting]:
        """So many from a place on, the first in line first."""
        members = await self._store.commands.zrange(self._keys.waiting, start, start + count - 1, withscores=True)
        ranks = {read_name(member): rank for member, rank in members}
        if len(self._met) > MOST_REMEMBERED:
            self._met.clear()
        # One that an engine has failed may have been on another since, and have failed there: it is read anew.
        if unknown := [one for one in ranks if (met := self._met.get(one)) is None or met.arrival.excluded]:
            for waiting in await read_waiting(self._store, self._keys.pool, unknown):
                if waiting.unreadable:
                    await self._condemn(waiting)
                else:
                    self._met[waiting.arrival.id] = waiting
        found: list[Waiting] = []
        for request_id, rank in ranks.items():
            waiting = self._met.get(request_id)
            if waiting is None:
                continue
            waiting.rank = rank
            found.append(waiting)
        return found

    async def _condemn(self, waiting: Waiting) -> None:
        request_id = waiting.arrival.id
        if await condemn(self._store, self._keys.pool, request_id, waiting.unreadable):
            log.error(
                "pool %s: request %r is given up: its record says that %s",
                self._keys.pool,
                request_id,
                waiting.unreadable,
            )

    def forget(self, request_id: str) -> None:
        """What was remembered of it may hold no longer."""
        self._met.pop(request_id, None)

    def forget_all(self) -> None:
        """What was remembered of any of them may hold no longer."""
        self._met.clear()


async def read_waiting(store: Store, pool: str, request_ids: Sequence[str]) -> list[Waiting]:
    """The records of these requests, without their ranks."""
    keys = store.keys.pool(pool)
    pipe = store.commands.pipeline(transaction=False)
    for request_id in request_ids:
        pipe.hmget(keys.record(request_id), _FIELDS)
    found: list[Waiting] = []
    for request_id, values in zip(request_ids, await pipe.execute() if request_ids else [], strict=True):
        fields = {n: v.decode(errors="replace") for n, v in zip(_FIELDS, values, strict=True) if v is not None}
        # One whose record has gone is taken out of the waiting set by the assign step.
        arrival, attempts, unreadable = Arrival(request_id, RequestPriority.NORMAL, 0.0), 0, ""
        if fields:
            try:
                arrival, attempts = read_arrival(request_id, fields), _read_attempts(fields)
            except BadEntry as error:
                unreadable = str(error)
        late, epoch = fields.get("late") == "1", fields.get("epoch", "0")
        found.append(Waiting(arrival, attempts, 0.0, late, epoch, unreadable))
    return found


def _read_attempts(fields: dict[str, str]) -> int:
    text = fields.get("attempt", "0")
    if not is_count(text):
        raise BadEntry(f"field 'attempt' must be a whole number, not {text[:40]!r}")
    return int(text)
