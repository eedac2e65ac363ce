"""The line within the process: who stands where, who steps back, and who is owed a place."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from sagellm_control import EngineInfo, EngineState, RequestType
from sagellm_control.manager.backend import TOO_LATE, Wish, no_engine
from sagellm_control.manager.line import Line, Ticket
from sagellm_control.manager.load import Misses
from sagellm_control.manager.local_place import wait_for_place
from sagellm_control.manager.local_policy import LocalPolicy
from sagellm_control.manager.local_queue import ModelQueue
from sagellm_control.manager.local_wishes import LocalWishes
from sagellm_control.manager.orders import make_policy, make_strategy
from sagellm_control.scheduler import open_engines
from sagellm_control.scheduler.forecast import Forecast
from sagellm_control.scheduler.lateness import LATE_HANDICAP_MS
from sagellm_control.scheduler.order.adaptive import DWELL_MS
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival

from ..waiting import wait_until


def waits(name: str, *, slo_ms: int = 0, arrived_ms: float = 0.0, tenant: str = "") -> Ticket:
    return Ticket(
        Arrival(name, RequestPriority.NORMAL, arrived_ms, tenant, slo_ms=slo_ms), Forecast(100, 100, 0.0, 0.0)
    )


async def test_who_is_late_steps_back_once() -> None:
    policy = LocalPolicy(make_policy("fifo"), make_strategy("round_robin"))
    queue = ModelQueue("m", policy, Misses())
    info = EngineInfo("e1", "m", "127.0.0.1", 1, state=EngineState.READY)
    queue.add(info, 1, 0)
    order: list[str] = []

    def stand_in_line(name: str, slo_ms: int) -> Ticket:
        ticket = waits(name, slo_ms=slo_ms, arrived_ms=time.time() * 1000 - 1000)
        ticket.granted = lambda engine: order.append(f"{name} {engine}")
        queue.wait(ticket)
        return ticket

    holder = stand_in_line("holder", 0)
    late, refused, patient = stand_in_line("late", 100), stand_in_line("refused", 100), stand_in_line("patient", 0)
    rank, refused.arrival.reject_late = late.rank, True
    queue.give_back(info, holder)
    assert order == ["holder e1", "refused None", "patient e1"]
    assert (late.rank, late.stepped_back, refused.refused) == (rank + LATE_HANDICAP_MS, True, True)
    queue.give_back(info, patient)
    assert order[-1] == "late e1", "nobody waits who is in time"


@pytest.mark.parametrize(("reject_late", "told"), [(False, no_engine("m")), (True, TOO_LATE)])
async def test_only_who_is_refused_hears_that_it_is_too_late(reject_late: bool, told: str) -> None:
    queue = ModelQueue("m", LocalPolicy(make_policy("fifo"), make_strategy("round_robin")), Misses())
    info = EngineInfo("e1", "m", "127.0.0.1", 1, state=EngineState.READY)
    queue.add(info, 1, 0)
    holder, patient = waits("holder"), waits("patient", arrived_ms=time.time() * 1000)
    queue.wait(holder)
    wishes = LocalWishes({"e1": info})
    wish = Wish("late", "t", "m", RequestType.LLM_CHAT, RequestPriority.NORMAL, 100, 100, deadline_ms=60_000)
    ticket = waits("late", slo_ms=100, arrived_ms=time.time() * 1000 - 1000)
    ticket.arrival.reject_late = reject_late
    waiting = wishes.wait(wish, queue, ticket)
    queue.wait(patient)
    queue.give_back(info, holder)
    assert (ticket.stepped_back, ticket.refused) == (not reject_late, reject_late)
    assert patient.taken
    queue.remove(info)
    queue.dismiss()
    assert wishes.decision(waiting).reason == told
    wishes.collect(waiting)


async def test_what_an_engine_had_is_owed_another_try_however_late() -> None:
    queue = ModelQueue("m", LocalPolicy(make_policy("fifo"), make_strategy("round_robin")), Misses())
    info, other = (EngineInfo(name, "m", "127.0.0.1", 1, state=EngineState.READY) for name in ("e1", "e2"))
    queue.add(info, 1, 0)
    holder = queue.ticket(waits("holder").arrival)
    assert queue.take(holder) == "e1"
    late = replace(
        waits("late", slo_ms=100, arrived_ms=time.time() * 1000 - 1000).arrival, reject_late=True, excluded=("e2",)
    )
    queue.add(other, 0, 0)
    waiting = asyncio.create_task(wait_for_place(queue, late, max_waiting=0))
    await wait_until(lambda: len(queue) == 1)
    queue.give_back(info, holder)
    assert (await asyncio.wait_for(waiting, 5) or ("none",))[0] is info


def failed_on(engine: str) -> Arrival:
    now_ms = time.time() * 1000
    return replace(waits("failed", arrived_ms=now_ms).arrival, excluded=(engine,), excluded_ms=now_ms)


async def test_the_engine_that_failed_it_takes_it_after_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_engines, "EXCLUDED_FOR_MS", 200.0)
    queue = ModelQueue("m", LocalPolicy(make_policy("fifo"), make_strategy("round_robin")), Misses())
    info, other = (EngineInfo(name, "m", "127.0.0.1", 1, state=EngineState.READY) for name in ("e1", "e2"))
    queue.add(info, 1, 0)
    queue.add(other, 0, 0)
    failed = failed_on("e1")
    assert (await asyncio.wait_for(wait_for_place(queue, failed, max_waiting=1), 5) or ("none",))[0] is info
    assert time.time() * 1000 >= failed.excluded_ms + 200


@pytest.mark.parametrize("removed", [False, True])
async def test_the_engine_that_failed_it_takes_it_when_there_is_no_other(removed: bool) -> None:
    queue = ModelQueue("m", LocalPolicy(make_policy("fifo"), make_strategy("round_robin")), Misses())
    info, other = (EngineInfo(name, "m", "127.0.0.1", 1, state=EngineState.READY) for name in ("e1", "e2"))
    queue.add(info, 1, 0)
    queue.add(other, 0, 0)
    failed = failed_on("e1")
    waiting = asyncio.create_task(wait_for_place(queue, failed, max_waiting=1))
    await wait_until(lambda: len(queue) == 1)
    if removed:
        queue.remove(other)
    else:
        other.state = EngineState.DRAINING
    assert (await asyncio.wait_for(waiting, 5) or ("none",))[0] is info


def test_the_adaptive_order_sees_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr("sagellm_control.manager.local_policy.time.time", lambda: now[0])
    policy = LocalPolicy(make_policy("adaptive"), make_strategy("round_robin"))
    line = Line()
    for number in range(20):
        ticket = waits(f"r{number}", arrived_ms=now[0] * 1000 + number, tenant="many" if number < 18 else "few")
        policy.rank(ticket)
        line.add(ticket)
    assert not policy.adapt(line, [], places=1, batch=1, missed=0)
    now[0] += DWELL_MS / 1000 + 1
    assert policy.adapt(line, [], places=1, batch=1, missed=0)
    assert policy.order.fair
    policy.rank_again(line)
    assert {ticket.arrival.tenant for ticket in list(line)[:2]} == {"many", "few"}
    assert len(line) == 20


def test_the_line_keeps_its_order() -> None:
    line = Line()
    tickets = [waits(str(number)) for number in range(500)]
    for number, ticket in enumerate(tickets):
        ticket.rank = float(number * 7 % 500)
        line.add(ticket)
    ranked = sorted(tickets, key=lambda ticket: ticket.rank)
    assert list(line) == ranked
    assert line.remove(ranked[250])
    assert not line.remove(ranked[250])
    for position, ticket in enumerate(ranked[:200]):
        assert line.position(ticket) == 0, position
        line.pop(0)
    assert line.position(ranked[300]) == 99
    assert list(line) == ranked[200:250] + ranked[251:]
