"""set_policy, set_once, next_misranked, rerank: a pool's policy changes, and what waits is ranked anew."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...wire.keys import read_name
from ..connect import Store
from ..script import Argument, Script
from .rank import Charge, write_charge, write_credit, write_rank

_SET = Script("set_policy")
_NEXT = Script("next_misranked")
_RERANK = Script("rerank")

PIECE = 500
"""Requests that are ranked anew in one call: a few milliseconds of the server's time."""


async def set_policy(store: Store, pool: str, ranking: Mapping[str, str], others: Mapping[str, str]) -> str:
    """Record settings for all schedulers of the pool; an empty value brings a default back.

    Args:
        ranking: settings that change the ranks of what waits: a new epoch begins if any of them is new.

    Returns:
        The epoch.
    """
    keys = store.keys.pool(pool)
    arguments: list[Argument] = [store.now(), len(ranking)]
    for name, value in (*ranking.items(), *others.items()):
        arguments += (name, value)
    return (await _SET(store, [keys.settings, keys.virtual_time, keys.tenants], arguments)).decode()


async def set_once(store: Store, pool: str, name: str, value: str) -> None:
    """Record what several schedulers may find out at the same time: what the first of them says holds for all."""
    await store.commands.hsetnx(store.keys.pool(pool).settings, name, value)


@dataclass(slots=True, frozen=True)
class Piece:
    """Requests that one scheduler ranks anew."""

    name: str
    request_ids: list[str]


async def next_misranked(store: Store, pool: str, epoch: str) -> Piece | str:
    """The next piece; or ``done``, ``busy`` (others are at it), ``changed`` (the pool's epoch is another)."""
    keys = store.keys.pool(pool)
    name = secrets.token_hex(4)
    answer = await _NEXT(
        store, [keys.waiting, keys.settings, keys.reranking, keys.misranked], [store.now(), epoch, name, PIECE]
    )
    what, *ids = answer
    return Piece(name, [read_name(request_id) for request_id in ids]) if what == b"piece" else what.decode()


@dataclass(slots=True)  # not frozen: that costs a microsecond each, and there are many
class NewRank:
    """What a request's rank is under the pool's policy of now."""

    request_id: str
    rank: float
    """Under a fair order, the handicap."""
    charge: Charge | None = None


async def rerank(
    store: Store,
    pool: str,
    epoch: str,
    piece: Piece,
    ranks: Sequence[NewRank],
    *,
    fair: bool,
    credit_ms: float = 0.0,
) -> int | None:
    """Give a piece its new ranks; how many were still under the old ones. None: the policy has changed again."""
    keys = store.keys.pool(pool)
    names = [keys.waiting, keys.settings, keys.reranking, keys.misranked, keys.virtual_time, keys.tenants, keys.backlog]
    arguments: list[Argument] = [store.now(), epoch, write_credit(credit_ms, fair=fair), piece.name, len(ranks)]
    for new in ranks:
        names.append(keys.record(new.request_id))
        arguments += (new.request_id, write_rank(new.rank), write_charge(new.charge) if new.charge else "")
    return await _RERANK(store, names, arguments)
