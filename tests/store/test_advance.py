"""advance: a request whose prompt an engine has read waits for one that answers it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sagellm_control.store.steps.assign import Move
from sagellm_control.store.steps.cancel import cancel
from sagellm_control.store.steps.engines import drain_engine
from sagellm_control.store.steps.requeue import Cause
from sagellm_control.wire.engine import EngineRole
from sagellm_control.wire.states import Outcome, RequestKind

from ..pool_driver import PoolDriver
from ..pool_state import read_state, violations

HANDED = b'{"engine_kind":"vllm","kv_transfer_params":{"remote_host":"p"}}'
STAGE = ("stage", "transfer", "prefilled_ms")


@pytest.fixture
async def pair(pool: PoolDriver) -> PoolDriver:
    """A prefilling engine ``p`` and two that decode, one place each."""
    await pool.engine("p", role=EngineRole.PREFILL)
    await pool.engine("d", role=EngineRole.DECODE)
    await pool.engine("e", role=EngineRole.DECODE)
    return pool


async def _advance(pool: PoolDriver, attempt: int = 1, *, engine: str = "p", worker: str | None = None) -> str:
    return await pool.advance("a", HANDED, attempt=attempt, engine=engine, worker=worker)


async def _decoding(pool: PoolDriver) -> None:
    """``a`` in its second attempt, on ``d``."""
    await pool.running("a", engine="p", stream=True, continuable=True)
    assert await _advance(pool) == "waiting"
    assert (await pool.assign(Move("a", 1, "d", stage="decode"))).results == ["assigned"]


@pytest.mark.parametrize("state", ["assigned", "running"])
async def test_back_at_its_old_rank_for_the_next_stage(pair: PoolDriver, state: str) -> None:
    await getattr(pair, state)("a", engine="p")
    rank = float((await pair.record("a"))["rank"])
    await pair.waiting("later")
    backlog = await pair.store.commands.hgetall(pair.keys.backlog)
    pair.clock.advance(70)
    assert await _advance(pair) == "waiting"
    assert await pair.waiting_ids() == ["a", "later"]
    assert await pair.store.commands.zscore(pair.keys.waiting, "a") == rank
    record = await pair.record("a")
    assert [record[name] for name in ("state", "stage", "transfer")] == ["waiting", "decode", HANDED.decode()]
    assert float(record["prefilled_ms"]) == pytest.approx(pair.clock.now_ms, abs=1)
    assert not {"engine", "entry", "excluded", "failures"} & record.keys()
    assert (await pair.holds("p"), await pair.assigned_entries("p")) == (set(), [])
    assert await pair.room() == {"p": 1, "d": 1, "e": 1}
    assert (await pair.counters())["prefilled"] == 1
    after = await pair.store.commands.hgetall(pair.keys.backlog)
    assert int(after[b"requests/2"]) == int(backlog[b"requests/2"]) + 1
    assert await pair.events("a") == []
    assert not violations(await read_state(pair.store, pair.keys))


async def test_the_entries_tell_the_stage(pair: PoolDriver) -> None:
    await pair.assigned("a", engine="p")
    (entry,) = await pair.assigned_entries("p")
    assert entry["stage"] == "prefill"
    assert "transfer" not in entry
    await _advance(pair)
    await pair.assign(Move("a", 1, "d", stage="decode"))
    (entry,) = await pair.assigned_entries("d")
    assert (entry["stage"], entry["transfer"], entry["attempt"]) == ("decode", HANDED.decode(), "2")
    assert entry["prefilled_ms"] == (await pair.record("a"))["prefilled_ms"]


@pytest.mark.parametrize("role", [EngineRole.GENERAL, EngineRole.HYBRID, EngineRole.DECODE])
async def test_elsewhere_it_is_whole(pool: PoolDriver, role: EngineRole) -> None:
    await pool.engine(role=role)
    await pool.assigned("a")
    assert "stage" not in (await pool.assigned_entries())[0]


@pytest.mark.parametrize("kind", [RequestKind.EMBEDDING, RequestKind.RESERVATION])
async def test_what_has_no_decode_is_whole_on_any_engine(pair: PoolDriver, kind: RequestKind) -> None:
    await pair.assigned("a", engine="p", kind=kind)
    assert "stage" not in (await pair.assigned_entries("p"))[0]


@pytest.mark.parametrize("engine", ["d", None])
async def test_a_choice_made_for_another_stage_does_not_hold(pair: PoolDriver, engine: str | None) -> None:
    await pair.running("a", engine="p")
    await _advance(pair)
    assert (await pair.assign(Move("a", 1, engine))).results == ["stale"]
    assert (await pair.assign(Move("a", 1, engine, stage="decode"))).results != ["stale"]


async def test_again_after_a_lost_reply(pair: PoolDriver) -> None:
    await pair.running("a", engine="p")
    assert await _advance(pair) == "waiting"
    before = await read_state(pair.store, pair.keys)
    assert await _advance(pair) == "waiting"
    # Schedulers may be told once more than needed; nothing else has changed.
    assert replace(await read_state(pair.store, pair.keys), announced=0) == replace(before, announced=0)
    await pair.assign(Move("a", 1, "d", stage="decode"))
    assert await _advance(pair) == "lost"
    assert (await pair.state("a"), await pair.holds("d")) == ("assigned", {"a"})


@pytest.mark.parametrize(("attempt", "worker"), [(0, None), (2, None), (1, "somebody-else"), (1, "")])
async def test_only_the_holder_of_the_attempt_advances(pair: PoolDriver, attempt: int, worker: str | None) -> None:
    await pair.running("a", engine="p")
    before = await read_state(pair.store, pair.keys)
    assert await _advance(pair, attempt, worker=worker) == "lost"
    assert await read_state(pair.store, pair.keys) == before


async def test_a_prefill_that_was_given_to_another_changes_nothing(pair: PoolDriver) -> None:
    await pair.running("a", engine="p")
    await pair.requeue("a", Cause.LAPSED, engine="p")
    assert (await pair.assign(Move("a", 1, "d"))).results == ["assigned"]
    assert await _advance(pair) == "lost"
    assert "stage" not in await pair.record("a")


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.CANCELLED, "cancelled"), (Outcome.EXPIRED, "deadline_exceeded")]
)
async def test_one_that_was_to_be_stopped_ends(pair: PoolDriver, outcome: Outcome, code: str) -> None:
    await pair.running("a", engine="p", timeout_ms=1000)
    if outcome is Outcome.CANCELLED:
        assert await cancel(pair.store, pair.name, "a") == "stopping"
    else:
        pair.clock.advance(2000)
    assert await _advance(pair) == outcome
    ending = await pair.ending("a")
    assert (ending.outcome, ending.code) == (outcome, code)
    assert (await pair.holds("p"), await pair.waiting_ids()) == (set(), [])
    assert not violations(await read_state(pair.store, pair.keys))


async def test_cancelled_between_the_stages(pair: PoolDriver) -> None:
    await pair.running("a", engine="p")
    await _advance(pair)
    assert await cancel(pair.store, pair.name, "a") == "ended"
    assert await pair.store.commands.hgetall(pair.keys.backlog) == {}
    assert not violations(await read_state(pair.store, pair.keys))


@pytest.mark.parametrize(
    ("cause", "again", "excluded"),
    [
        (Cause.FAILED, True, "d"),
        (Cause.LAPSED, True, None),
        (Cause.STALE, True, None),
        (Cause.BUSY, False, None),
        (Cause.RETURNED, False, None),
    ],
)
async def test_a_decode_that_comes_back(pair: PoolDriver, cause: Cause, again: bool, excluded: str | None) -> None:
    await _decoding(pair)
    assert await pair.requeue("a", cause, attempt=2, engine="d") == "waiting"
    record = await pair.record("a")
    assert [name in record for name in STAGE] == [not again] * 3
    assert record.get("excluded") == excluded
    assert ("errors" in record) == (cause in (Cause.FAILED, Cause.LAPSED))


@pytest.mark.parametrize("cause", Cause)
async def test_half_an_answer_is_gone_on_with_after_another_prefill(pair: PoolDriver, cause: Cause) -> None:
    await _decoding(pair)
    await pair.append("a", 1, attempt=2, engine="d")
    assert await pair.requeue("a", cause, attempt=2, engine="d") == "waiting"
    record = await pair.record("a")
    assert record["after"] == "2-1"
    assert not set(STAGE) & record.keys()
    await pair.assign(Move("a", 2, "p"))
    assert (await pair.assigned_entries("p"))[0]["stage"] == "prefill"
    assert await _advance(pair, 3) == "waiting"
    await pair.assign(Move("a", 3, "e", stage="decode"))
    (entry,) = await pair.assigned_entries("e")
    assert (entry["stage"], entry["after"]) == ("decode", "2-1")


async def test_a_scheduler_hears_of_it_also_from_an_engine_that_drains(pair: PoolDriver) -> None:
    await pair.running("a", engine="p")
    await drain_engine(pair.store, pair.name, "p")
    await pair.take()
    await _advance(pair)
    assert [freed.engine for freed in (await pair.take()).freed] in (["d"], ["e"])
    assert await pair.room() == {"d": 1, "e": 1}


async def test_the_answer_ends_it(pair: PoolDriver) -> None:
    await _decoding(pair)
    assert await pair.claim("a", 2, engine="d") == "running"
    assert await pair.finish("a", attempt=2, engine="d")
    assert (await pair.ending("a")).outcome is Outcome.COMPLETED
    assert not violations(await read_state(pair.store, pair.keys))
