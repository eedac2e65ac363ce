"""What each stage asks its engine for, and what travels between them."""

from __future__ import annotations

import logging
from typing import Any, cast

import orjson
import pytest

from sagellm_control.wire.engine import EngineRole
from sagellm_control.wire.registration import Registration
from sagellm_control.wire.states import Stage
from sagellm_control.wire.trace_context import NO_TRACE
from sagellm_workers.adapters.base import EngineAdapter, EngineBroken, EngineCall, EngineFacts, ModelFacts
from sagellm_workers.attempts.prefill_decode import (
    REMOTE_DECODE,
    STALE_AFTER_MS,
    NotSeparable,
    Stale,
    hand_over,
    is_separable,
    staged_call,
)
from sagellm_workers.observation.observation import EngineObservation
from sagellm_workers.observation.pace_keeper import PaceKeeper
from sagellm_workers.serving.rows_of_engine import make_rows, row_of_registration
from sagellm_workers.settings import WorkerSettings

from ...pool_driver import PoolDriver

BODY: dict[str, Any] = {"model": "m", "max_tokens": 9, "stream": True, "messages": []}
WHERE = {"do_remote_prefill": True, "remote_engine_id": "p", "remote_block_ids": [1, 2]}


class Wire:
    """All that is asked of an adapter here."""

    def __init__(self, name: str) -> None:
        self.name = name


OPENAI = cast(EngineAdapter, Wire("openai"))


def call(**fields: Any) -> EngineCall:
    return EngineCall("r", NO_TRACE, "chat", True, orjson.dumps(BODY | fields), 2, "r~5")


def staged(stage: Stage, transfer: bytes = b"", *, age_ms: float = 0.0, kind: str = "vllm", **fields: Any) -> Any:
    made = staged_call(call(**fields), stage, kind, OPENAI, handed=transfer, age_ms=age_ms)
    return made.stream, orjson.loads(made.body)


def test_a_whole_request_is_left_alone() -> None:
    asked = call()
    assert staged_call(asked, Stage.WHOLE, "vllm", OPENAI) is asked


def test_the_prefill_asks_for_one_token_and_the_blocks() -> None:
    given = {"max_completion_tokens": 9, "min_tokens": 3, "stream_options": {"include_usage": True}, "seed": 4}
    streams, body = staged(Stage.PREFILL, **given)
    assert not streams
    expected = {"stream": False, "max_tokens": 1, "max_completion_tokens": 1, "seed": 4}
    assert body == {**BODY, **expected, "kv_transfer_params": REMOTE_DECODE}


def test_the_decode_says_where_the_blocks_lie() -> None:
    handed = hand_over("vllm", orjson.dumps({"choices": [], "kv_transfer_params": WHERE}), "r~3")
    assert staged(Stage.DECODE, handed) == (True, {**BODY, "kv_transfer_params": WHERE})


@pytest.mark.parametrize(
    ("handed", "sent_id"),
    [
        (hand_over("vllm", orjson.dumps({"kv_transfer_params": WHERE}), "r~3"), "r~3"),
        (orjson.dumps({"engine_kind": "vllm", "kv_transfer_params": WHERE}), "r"),  # an earlier version's
        (b"", "r~5"),
    ],
)
def test_the_decode_has_the_id_of_the_prefill_whose_blocks_it_fetches(handed: bytes, sent_id: str) -> None:
    assert staged_call(call(), Stage.DECODE, "vllm", OPENAI, handed=handed).sent_id == sent_id


@pytest.mark.parametrize("reply", [b'{"choices":[]}', b'{"kv_transfer_params":null}', b"[]", b""])
def test_without_a_connector_the_decode_is_the_whole_request(reply: bytes) -> None:
    handed = hand_over("vllm", reply, "r")
    assert handed == b""
    assert staged(Stage.DECODE, handed) == (True, BODY)


def test_on_the_own_wire_the_phase_is_told() -> None:
    own = cast(EngineAdapter, Wire("sagellm"))
    first = staged_call(call(), Stage.PREFILL, "sagellm", own)
    assert orjson.loads(first.body)["phase"] == "prefill"
    handed = hand_over("sagellm", b"{}", "r")
    second = staged_call(call(), Stage.DECODE, "sagellm", own, handed=handed)
    assert orjson.loads(second.body) == {**BODY, "phase": "decode"}
    assert staged_call(call(), Stage.DECODE, "sagellm", own) == call(), "nobody has read it"


def test_blocks_of_another_kind_of_engine_are_left_alone() -> None:
    handed = hand_over("vllm", orjson.dumps({"kv_transfer_params": WHERE}), "r")
    assert staged(Stage.DECODE, handed, kind="llama.cpp", age_ms=STALE_AFTER_MS + 1) == (True, BODY)


def test_blocks_that_nobody_has_fetched_for_long_are_stale() -> None:
    handed = hand_over("vllm", orjson.dumps({"kv_transfer_params": WHERE}), "r")
    assert staged(Stage.DECODE, handed, age_ms=STALE_AFTER_MS)
    with pytest.raises(Stale):
        staged(Stage.DECODE, handed, age_ms=STALE_AFTER_MS + 1)


def test_a_reply_that_is_no_json_is_broken() -> None:
    with pytest.raises(EngineBroken, match="no JSON"):
        hand_over("vllm", b"<html>", "r")


@pytest.mark.parametrize(
    ("fields", "separable"),
    [
        ({}, True),
        ({"n": 1, "best_of": 1, "echo": False, "prompt_logprobs": None}, True),
        ({"prompt": "text"}, True),
        ({"prompt": ["one text"]}, True),
        ({"prompt": [1, 2, 3]}, True),
        ({"prompt": ["two", "texts"]}, False),
        ({"prompt": [[1, 2], [3]]}, False),
        ({"n": 2}, False),
        ({"best_of": 3}, False),
        ({"echo": True}, False),
        ({"prompt_logprobs": 0}, False),
    ],
)
def test_what_can_be_separated(fields: dict[str, Any], separable: bool) -> None:
    assert is_separable(orjson.dumps(BODY | fields)) == separable
    if not separable:
        with pytest.raises(NotSeparable):
            staged(Stage.PREFILL, **fields)


@pytest.mark.parametrize("role", EngineRole)
def test_the_role_is_in_the_row(role: EngineRole) -> None:
    facts = EngineFacts("vllm", "", (ModelFacts("m"),), 4, None)
    (row,) = make_rows("http://127.0.0.1:1", facts, WorkerSettings(role=role))
    assert row.role is role
    assert row.fields()["role"] == role


@pytest.mark.parametrize("role", EngineRole)
async def test_where_nothing_decodes_the_pace_is_the_speed(pool: PoolDriver, role: EngineRole) -> None:
    await pool.store.commands.hset(pool.keys.settings, "tpot_slo_ms", "50")
    row = await pool.engine(role=role)
    keeper = PaceKeeper(pool.store, row, EngineObservation())
    await keeper.follow()
    paced = keeper.learn(row)
    assert paced.pace_tps > 0
    assert (paced.pace_tps == paced.speed.prefill_tps) == (role is EngineRole.PREFILL)


def test_engines_of_sglang_get_whole_requests(caplog: pytest.LogCaptureFixture) -> None:
    facts = EngineFacts("sglang", "", (ModelFacts("m"),), 4, None)
    with caplog.at_level(logging.WARNING):
        (row,) = make_rows("http://127.0.0.1:1", facts, WorkerSettings(role=EngineRole.PREFILL))
    assert row.role is EngineRole.GENERAL
    assert "--disaggregation-mode" in caplog.text


@pytest.mark.parametrize("wanted", [EngineRole.GENERAL, EngineRole.PREFILL, EngineRole.DECODE])
@pytest.mark.parametrize(("mode", "role"), [("prefill", EngineRole.PREFILL), ("decode", EngineRole.DECODE)])
def test_an_engine_in_a_pair_has_the_role_that_it_was_started_for(
    mode: str, role: EngineRole, wanted: EngineRole, caplog: pytest.LogCaptureFixture
) -> None:
    facts = EngineFacts("sglang", "", (ModelFacts("m"),), 4, None, disaggregation=mode, bootstrap_port=8998)
    with caplog.at_level(logging.WARNING):
        (row,) = make_rows("http://127.0.0.1:1", facts, WorkerSettings(role=wanted))
    assert (row.role, row.kinds, row.is_paired) == (role, ("chat", "completion"), True)
    assert bool(caplog.records) == (wanted not in (role, EngineRole.GENERAL))
    adopted = row_of_registration(Registration("e1", "m", "127.0.0.1", 1), OPENAI, facts, "w")
    assert (adopted.role, adopted.kinds) == (role, row.kinds)


@pytest.mark.parametrize(
    ("instance_type", "role"),
    [*((role.value, role) for role in EngineRole), ("embedding", EngineRole.GENERAL), (None, EngineRole.GENERAL)],
)
def test_the_type_of_a_registered_engine_is_its_role(instance_type: str | None, role: EngineRole) -> None:
    registration = Registration("e1", "m", "127.0.0.1", 1, metadata={"instance_type": instance_type})
    assert row_of_registration(registration, OPENAI, None, "w").role is role
