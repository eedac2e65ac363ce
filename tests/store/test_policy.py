"""set_policy, next_misranked, rerank: a change of policy re-ranks what waits, and loses or doubles nobody."""

from __future__ import annotations

import asyncio

import pytest

from sagellm_control.store.steps import policy
from sagellm_control.store.steps.admit import Admission, admit
from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.policy import NewRank, Piece, next_misranked, rerank, set_policy
from sagellm_control.store.steps.rank import Charge
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.store.steps.rules import Rules

from ..pool_driver import PoolDriver
from .loses_replies import LosesReplies


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "PIECE", 3)


async def take_piece(pool: PoolDriver, epoch: str) -> Piece:
    piece = await next_misranked(pool.store, pool.name, epoch)
    assert isinstance(piece, Piece), piece
    return piece


async def bring_back(pool: PoolDriver, epoch: str, piece: Piece, *, fair: bool = False) -> int | None:
    """Everybody's rank under the new policy is the number in its id, counted down from 100."""
    ranks = [NewRank(r, 0.0 if fair else 100.0 - int(r[1:]), Charge(10.0, 1.0, 1.0)) for r in piece.request_ids]
    return await rerank(pool.store, pool.name, epoch, piece, ranks, fair=fair)


async def rerank_all(pool: PoolDriver, epoch: str, *, fair: bool = False) -> None:
    while isinstance(piece := await next_misranked(pool.store, pool.name, epoch), Piece):
        await bring_back(pool, epoch, piece, fair=fair)
    assert piece == "done"


async def test_only_what_changes_ranks_begins_an_epoch(pool: PoolDriver) -> None:
    async def change(ranking: dict[str, str], others: dict[str, str]) -> str:
        return await set_policy(pool.store, pool.name, ranking, others)

    assert await change({}, {"placement": "round_robin"}) == "0"
    assert await change({"policy": "fifo"}, {}) == "1"
    assert await change({"policy": "fifo"}, {"placement": "least_loaded"}) == "1"
    assert await change({"policy": "fifo", "aging_s": "5"}, {}) == "2"
    assert await change({"aging_s": ""}, {}) == "3"
    assert await pool.store.commands.hgetall(pool.keys.settings) == {
        b"policy": b"fifo",
        b"placement": b"least_loaded",
        b"epoch": b"3",
    }


async def test_what_waits_gets_its_new_place(pool: PoolDriver) -> None:
    ids = [f"r{i}" for i in range(10)]
    await pool.waiting(*ids)
    epoch = await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})
    await rerank_all(pool, epoch)
    assert await pool.waiting_ids() == ids[::-1]
    assert {(await pool.record(r))["epoch"] for r in ids} == {epoch}


async def test_requests_of_one_rank_are_all_ranked_anew(pool: PoolDriver) -> None:
    ids = [f"r{i}" for i in range(10)]
    await pool.waiting(*ids)
    await pool.store.commands.zadd(pool.keys.waiting, dict.fromkeys(ids, 5.0))
    epoch = await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})
    await rerank_all(pool, epoch)
    assert await pool.waiting_ids() == ids[::-1]


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_a_piece_whose_reply_was_lost_is_given_again(pool: PoolDriver, lost: int) -> None:
    ids = [f"r{i}" for i in range(8)]
    await pool.engine()
    await pool.waiting(*ids)
    await next_misranked(pool.store, pool.name, "0")  # the script is loaded
    epoch = await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})
    for number in range(3):
        client = pool.store.commands
        pool.store.commands = LosesReplies(client) if number == lost else client
        piece = await take_piece(pool, epoch)
        pool.store.commands = client
        assert piece.request_ids == ids[3 * number : 3 * number + 3]
        await bring_back(pool, epoch, piece)
    assert await next_misranked(pool.store, pool.name, epoch) == "done"
    assert {(await pool.record(r))["epoch"] for r in ids} == {epoch}
    assert await pool.waiting_ids() == ids[::-1]


async def test_it_goes_on_while_requests_come_and_go(pool: PoolDriver) -> None:
    await pool.engine(slots=2)
    await pool.waiting(*(f"r{i}" for i in range(10)))
    epoch = await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})
    first = await take_piece(pool, epoch)
    assert (await pool.assign(Move("r0", 0, "e1"))).results == ["assigned"]
    await pool.accept("r77")
    (entry,) = (await pool.take()).arrivals
    admitted = await admit(pool.store, pool.name, [Admission(entry.level, entry.entry_id, "r77", 23.0)], Rules(epoch))
    assert admitted is not None
    await bring_back(pool, epoch, first)
    await rerank_all(pool, epoch)
    assert await pool.waiting_ids() == ["r77", *(f"r{i}" for i in range(9, 0, -1))]
    assert await pool.state("r0") == "assigned"


async def test_nobody_is_admitted_under_a_policy_that_holds_no_longer(pool: PoolDriver) -> None:
    await pool.accept("r1")
    (entry,) = (await pool.take()).arrivals
    epoch = await set_policy(pool.store, pool.name, {"policy": "fifo"}, {})
    admission = Admission(entry.level, entry.entry_id, "r1", 1.0)
    assert await admit(pool.store, pool.name, [admission], Rules("0")) is None
    assert await pool.state("r1") == "queued"
    admitted = await admit(pool.store, pool.name, [admission], Rules(epoch))
    assert admitted is not None
    assert admitted.results == ["waiting"]


@pytest.mark.parametrize("taken_ahead", [1, 2, 4])
@pytest.mark.parametrize("new_rank", ["another", "the same"])
async def test_who_shares_a_rank_with_very_many_comes_in_pieces_too(
    pool: PoolDriver, taken_ahead: int, new_rank: str
) -> None:
    ids = [f"r{i:02}" for i in range(20)]
    await pool.waiting("first", *ids, "last")
    await pool.store.commands.zadd(pool.keys.waiting, {"first": 10, "last": 30, **dict.fromkeys(ids, 20)})
    epoch = await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})
    ranks = {"first": 1.0, "last": 200.0} | {r: 20.0 if new_rank == "the same" else 100.0 - int(r[1:]) for r in ids}
    reranked = 0
    open_pieces: list[Piece] = []
    while (piece := await next_misranked(pool.store, pool.name, epoch)) != "done":
        if isinstance(piece, Piece):
            assert len(piece.request_ids) <= policy.PIECE
            open_pieces.append(piece)
        if piece == "busy" or len(open_pieces) == taken_ahead:
            # The latest first: the others' requests are where they were.
            done = open_pieces.pop()
            new = [NewRank(r, ranks[r]) for r in done.request_ids]
            reranked += await rerank(pool.store, pool.name, epoch, done, new, fair=False) or 0
    assert reranked == 22
    found = await pool.store.commands.zrange(pool.keys.waiting, 0, -1, withscores=True)
    assert {name.decode(): rank for name, rank in found} == ranks


async def test_a_second_change_supersedes_the_first(pool: PoolDriver) -> None:
    await pool.waiting(*(f"r{i}" for i in range(10)))
    first = await set_policy(pool.store, pool.name, {"policy": "fifo"}, {})
    piece = await take_piece(pool, first)
    second = await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})
    assert await bring_back(pool, first, piece) is None
    assert await next_misranked(pool.store, pool.name, first) == "changed"
    await rerank_all(pool, second)
    assert await pool.waiting_ids() == [f"r{i}" for i in range(9, -1, -1)]


async def test_a_piece_whose_taker_was_lost_is_done_again(pool: PoolDriver) -> None:
    await pool.waiting(*(f"r{i}" for i in range(7)))
    epoch = await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})
    await take_piece(pool, epoch)  # and dies
    while isinstance(piece := await next_misranked(pool.store, pool.name, epoch), Piece):
        await bring_back(pool, epoch, piece)
    assert piece == "busy"
    pool.clock.advance(10_000)
    await rerank_all(pool, epoch)
    assert await pool.waiting_ids() == [f"r{i}" for i in range(6, -1, -1)]


async def test_ten_schedulers_share_the_work(pool: PoolDriver) -> None:
    ids = [f"r{i}" for i in range(60)]
    await pool.waiting(*ids)
    epoch = await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})

    async def scheduler() -> int:
        done = 0
        while (piece := await next_misranked(pool.store, pool.name, epoch)) != "done":
            if isinstance(piece, Piece):
                done += await bring_back(pool, epoch, piece) or 0
        return done

    assert sum(await asyncio.gather(*(scheduler() for _ in range(10)))) == 60
    assert await pool.waiting_ids() == ids[::-1]


async def test_what_comes_back_from_an_engine_is_ranked_anew(pool: PoolDriver) -> None:
    await pool.engine()
    await pool.running("r1")
    epoch = await set_policy(pool.store, pool.name, {"policy": "lifo"}, {})
    await rerank_all(pool, epoch)
    await pool.requeue("r1", Cause.RETURNED)
    await rerank_all(pool, epoch)
    assert await pool.store.commands.zscore(pool.keys.waiting, "r1") == 99.0
    assert await pool.store.commands.exists(pool.keys.misranked) == 0


async def test_fair_starts_follow_the_old_order(pool: PoolDriver) -> None:
    for i, tenant in enumerate(("a", "a", "a", "b", "b")):
        await pool.waiting(f"r{i}", tenant=tenant)
    epoch = await set_policy(pool.store, pool.name, {"policy": "fair"}, {})
    await rerank_all(pool, epoch, fair=True)
    assert await pool.waiting_ids() == ["r0", "r3", "r1", "r4", "r2"]
    back = await set_policy(pool.store, pool.name, {"policy": "fifo"}, {})
    await rerank_all(pool, back)
    assert "start" not in await pool.record("r0")
