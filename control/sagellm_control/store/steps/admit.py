"""admit: arrivals leave their intake stream, for an engine or for the waiting set."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from ...wire.event import Ending
from ...wire.states import Outcome
from ..connect import Store
from ..script import Argument, Script
from .endings import EXPIRED_WAITING
from .rank import Charge, write_charge, write_credit, write_rank
from .room_note import RoomAfter, read_room_after
from .rules import INLINE_BODY_BYTES, PLAIN, Rules

_SCRIPT = Script("admit")


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class Admission:
    """What a scheduler decided about one arrival."""

    level: int
    """Which intake stream it came from: 0 (CRITICAL) … 4 (BACKGROUND)."""
    entry_id: str
    request_id: str
    rank: float = 0.0
    """Under a fair order, the handicap."""
    engine: str | None = None
    """Where it goes if it is its turn at once."""
    dead_reason: str = ""
    """Why it cannot be served at all; empty: it can."""
    dead_status: int = 500
    dead_code: str = "unreadable_request"
    """What its client is told beside the reason."""
    kv_tokens: int = 0
    """What it will hold in a KV cache."""
    uncached_tokens: int = 0
    """Prompt tokens that the engine has to compute."""
    charge: Charge | None = None
    """Under a fair order."""
    wait_ms: int = 0
    """For how long it may wait for an engine, from accept; 0: for ever."""


@dataclass(slots=True, frozen=True)
class Admitted:
    """What became of them."""

    results: list[str]
    """For each: ``assigned``, ``waiting``, ``gone``, ``expired`` or ``dead``."""
    room: RoomAfter
    left: int = 0
    """Arrivals that are still in their streams, whoever has read them."""


async def admit(
    store: Store, pool: str, admissions: Sequence[Admission], rules: Rules = PLAIN, *, turn: asyncio.Lock | None = None
) -> Admitted | None:
    """Carry out a scheduler's decisions about arrivals of one pool; None: the policy has changed meanwhile.

    Args:
        turn: calls that share it reach the server in the order in which they were made; each is sent as soon as the
            one before is answered.
    """
    keys = store.keys.pool(pool)
    engines = list(dict.fromkeys(a.engine for a in admissions if a.engine))
    number = {engine: i for i, engine in enumerate(engines, 1)}
    names = [keys.waiting, keys.room, keys.counters, keys.dead, *keys.intake]
    names += (keys.backlog, keys.settings, keys.virtual_time, keys.tenants, keys.placements, keys.expiries)
    for engine in engines:
        names += (keys.engine(engine), keys.reservations(engine), keys.assigned(engine))
    arguments: list[Argument] = [store.now(), INLINE_BODY_BYTES, EXPIRED_WAITING]
    arguments += (rules.epoch, write_credit(rules.credit_ms, fair=rules.fair), rules.placement, int(rules.log_prefixes))
    arguments += (len(engines), *engines, len(admissions))
    for a in admissions:
        names += (keys.record(a.request_id), keys.body(a.request_id), keys.output(a.request_id))
        arguments += (
            a.level,
            a.entry_id,
            a.request_id,
            write_rank(a.rank),
            number[a.engine] if a.engine else 0,
            a.kv_tokens,
            a.uncached_tokens,
            write_charge(a.charge) if a.charge else "",
            a.wait_ms,
            a.dead_reason,
            _dead_payload(a) if a.dead_reason else b"",
        )
    async with turn or nullcontext():
        answer = await _SCRIPT(store, names, arguments)
    if turn is not None:
        await asyncio.sleep(0)  # whoever is next sends first, and then this is dealt with
    if answer is None:
        return None
    results, *room, left = answer
    return Admitted([result.decode() for result in results], read_room_after(engines, room), left)


def _dead_payload(a: Admission) -> bytes:
    return Ending(Outcome.DEAD, status=a.dead_status, code=a.dead_code, message=a.dead_reason).encode()
