"""The model of an engine, against time lines computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sagellm_control.simulator.agenda import Agenda
from sagellm_control.simulator.engine import Engine
from sagellm_control.simulator.job import NEVER, Happening, Job
from sagellm_control.wire.engine import EngineRole

from .timelines import PLAIN, job, run


def test_one_request_alone() -> None:
    one = job("a", 0, 50, 4)
    engine = run(PLAIN, one)
    assert one.first_token_ms == pytest.approx(50)
    assert one.finished_ms == pytest.approx(50 + 3 * 11)
    assert one.tpot_ms == pytest.approx(11)
    assert engine.totals.busy_ms == pytest.approx(83)
    assert engine.totals.generated_tokens == 4


def test_an_answer_of_one_token_ends_with_its_prompt() -> None:
    one = job("a", 5, 50, 1)
    run(PLAIN, one)
    assert one.first_token_ms == one.finished_ms == pytest.approx(55)
    assert one.tpot_ms == 0


def test_a_long_prompt_is_read_in_chunks_that_hold_up_running_answers() -> None:
    a, b = job("a", 0, 10, 100), job("b", 10, 250, 1)
    run(PLAIN, a, b)
    # a: first token at 10. b comes then: chunks of 100, 100 and 50, each with a step of one answer.
    assert b.first_token_ms == pytest.approx(10 + 111 + 111 + 61)
    assert a.finished_ms == pytest.approx(10 + 283 + (99 - 3) * 11)


def test_what_comes_in_the_middle_of_a_step_joins_at_its_end() -> None:
    a, b = job("a", 0, 10, 101), job("b", 10 + 33 + 5, 20, 2)
    run(PLAIN, a, b)
    # Steps of 11 ms from 10 on: b waits until 10 + 44, then is read beside a step of one answer.
    assert b.first_token_ms == pytest.approx(54 + 20 + 11)
    assert b.finished_ms == pytest.approx(85 + 12)
    assert a.finished_ms == pytest.approx(97 + (100 - 4 - 1 - 1) * 11)


def test_what_comes_at_one_time_shares_a_chunk() -> None:
    a, b = job("a", 0, 30, 1), job("b", 0, 40, 1)
    run(PLAIN, a, b)
    assert a.first_token_ms == b.first_token_ms == pytest.approx(70)


def test_who_finds_no_slot_waits_in_the_order_of_arrival() -> None:
    a, b, c = job("a", 0, 10, 11), job("b", 1, 10, 1), job("c", 2, 10, 1)
    run(replace(PLAIN, slots=1), a, b, c)
    assert b.first_token_ms == pytest.approx(a.finished_ms + 10)
    assert c.first_token_ms == pytest.approx(b.finished_ms + 10)


def test_a_slow_engine_takes_longer_for_everything() -> None:
    one = job("a", 0, 50, 4)
    run(replace(PLAIN, factor=0.5), one)
    assert one.first_token_ms == pytest.approx(100)
    assert one.finished_ms == pytest.approx(100 + 3 * 22)


def test_what_is_cached_is_not_read_again() -> None:
    blocks = ["x", "y", "z"]
    a, b, c = job("a", 0, 35, 1, blocks), job("b", 100, 45, 1, [*blocks, "w"]), job("c", 200, 30, 1, blocks)
    engine = run(PLAIN, a, b, c)
    assert b.first_token_ms == pytest.approx(100 + 15)
    assert c.first_token_ms == pytest.approx(200 + 1), "the last token is always read"
    assert (engine.totals.prompt_tokens, engine.totals.cached_tokens) == (110, 59)


def test_the_cache_forgets_what_was_used_longest_ago_and_the_tail_first() -> None:
    a, b, c = (
        job("a", 0, 40, 1, ["a1", "a2", "a3"]),
        job("b", 100, 20, 1, ["b1"]),
        job("c", 200, 40, 1, ["a1", "a2", "a3"]),
    )
    run(replace(PLAIN, cache_blocks=3), a, b, c)
    assert c.cached_tokens == 20


def test_a_full_kv_cache_preempts_the_last_and_reads_it_again() -> None:
    model = replace(PLAIN, kv_tokens=60)
    a, b = job("a", 0, 20, 20), job("b", 0, 20, 20)
    engine = run(model, a, b)
    assert engine.totals.preemptions >= 1
    assert a.preempted == 0
    assert b.finished_ms > a.finished_ms
    assert engine.kv_held == 0
    # a: both read in 40 ms; together they hold 42 + 2 a step, so there is room for 9 steps of both; b waits then.
    assert a.first_token_ms == pytest.approx(40)
    assert a.finished_ms == pytest.approx(40 + 9 * 12 + 10 * 11)
    # b had 10 tokens; it is read again, answer and all, and goes on with its 11th.
    assert b.finished_ms == pytest.approx(a.finished_ms + 30 + 9 * 11)


def test_what_an_engine_tells_of_its_tokens_is_exact_in_the_middle_of_a_run() -> None:
    one = job("a", 0, 10, 1000)
    agenda_seen: list[tuple[float, int]] = []
    agenda = Agenda()
    engine = Engine("e0", PLAIN, agenda, told=lambda _, what: None)
    agenda.at(0, lambda _: engine.submit(one))
    agenda.at(10 + 11 * 7 + 1, lambda now: agenda_seen.append(engine.decoding(now)))
    agenda.run(lambda _: None)
    assert agenda_seen == [(pytest.approx(77), 7)]
    assert engine.decoding(agenda.now_ms) == (pytest.approx(999 * 11), 999)


def test_a_failed_engine_loses_what_it_had() -> None:
    agenda = Agenda()
    engine = Engine("e0", PLAIN, agenda, told=lambda _, what: None)
    jobs = [job("a", 0, 10, 100), job("b", 0, 500, 100)]
    lost: list[str] = []
    for one in jobs:
        agenda.at(0, lambda _, one=one: engine.submit(one))
    agenda.at(150, lambda _: lost.extend(one.arrival.id for one in engine.fail()))
    agenda.run(lambda _: None)
    assert sorted(lost) == ["a", "b"]
    assert (engine.load, engine.kv_held, engine.queued_prefill) == (0, 0, 0)
    assert engine.totals.busy_ms == pytest.approx(150)


def test_one_engine_reads_and_another_answers() -> None:
    agenda = Agenda()
    told: list[tuple[Happening, float]] = []

    def happened(one: Job, what: Happening) -> None:
        told.append((what, agenda.now_ms))
        if what is Happening.PREFILLED:
            assert (reader.load, reader.kv_held) == (0, 0)
            one.arrival.stage = "decode"
            answerer.submit(one)
            assert answerer.load == 1

    reader = Engine("p", replace(PLAIN, role=EngineRole.PREFILL), agenda, told=happened)
    answerer = Engine("d", replace(PLAIN, role=EngineRole.DECODE, transfer_tps=5000.0), agenda, told=happened)
    one = job("a", 0, 50, 4)
    agenda.at(0, lambda _: reader.submit(one))
    agenda.run(lambda _: None)
    # 50 ms to read, 10 ms for the KV blocks, and the last token is read again, by the engine that answers.
    assert told == [
        (Happening.PREFILLED, pytest.approx(50)),
        (Happening.FIRST_TOKEN, pytest.approx(61)),
        (Happening.FINISHED, pytest.approx(61 + 3 * 11)),
    ]
    assert (one.assigned_ms, one.engine, one.attempts) == (0, "d", 2)
    assert (reader.totals.prompt_tokens, answerer.totals.prompt_tokens) == (50, 0)


def test_without_the_blocks_the_answering_engine_reads_the_prompt() -> None:
    one = job("a", 0, 50, 4)
    one.arrival.stage = "decode"
    run(replace(PLAIN, role=EngineRole.DECODE), one)
    assert one.first_token_ms == pytest.approx(50)


def test_a_failure_loses_what_is_on_its_way() -> None:
    agenda = Agenda()
    engine = Engine("d", replace(PLAIN, role=EngineRole.DECODE), agenda, told=lambda _, what: None)
    one = job("a", 0, 200_000, 4)
    one.arrival.stage, one.blocks_on = "decode", "p"
    agenda.at(0, lambda _: engine.submit(one))
    lost: list[Job] = []
    agenda.at(500, lambda _: lost.extend(engine.fail()))
    agenda.run(lambda _: None)
    assert lost == [one]
    assert (one.arrival.stage, one.blocks_on, engine.load) == ("", "", 0)
    assert one.first_token_ms == NEVER
