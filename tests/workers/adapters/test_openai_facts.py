"""What is read out of engines' answers about themselves. The answers are as the engines write them, shortened."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sagellm_workers.adapters.base import EngineUnreachable, ModelFacts
from sagellm_workers.adapters.engine_http import Answer
from sagellm_workers.adapters.engine_priority import HIGH_FIRST, LOW_FIRST
from sagellm_workers.adapters.openai_facts import kind_of_owner, model_rows, read_facts

INFO = "/server_info?config_format=json"
CACHE = 'vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="%d",%snum_gpu_blocks="9000"} 1.0\n'


def answer(value: object) -> Answer:
    return Answer(200, value.encode() if isinstance(value, str) else orjson.dumps(value))


def rows(*models: dict[str, Any]) -> list[dict[str, Any]]:
    return model_rows("http://e", answer({"object": "list", "data": list(models)}))


@pytest.mark.parametrize(
    ("kind", "answers", "expected"),
    [
        pytest.param(
            "vllm",
            {
                "/version": answer({"version": "0.32.0"}),
                "/metrics": answer(CACHE % (0, 'kv_cache_size_tokens="218464",')),
                INFO: answer({"vllm_config": {"scheduler_config": {"max_num_seqs": 256}}}),
            },
            ("vllm", "0.32.0", 256, 218464),
            id="vLLM in development mode",
        ),
        pytest.param(
            "vllm",
            {
                "/version": answer({"version": "0.10.0"}),
                "/metrics": answer("# HELP x\n" + CACHE % (0, "") + CACHE % (1, "")),
                INFO: Answer(404, b'{"detail":"Not Found"}'),
            },
            ("vllm", "0.10.0", None, 2 * 16 * 9000),
            id="older vLLM, two ranks",
        ),
        pytest.param(
            "vllm",
            {
                "/metrics": answer(CACHE % (0, 'kv_cache_size_tokens="None",')),
                INFO: answer({"vllm_config": "model='x', max_seq_len=2048"}),
            },
            ("vllm", "", None, 144000),
            id="vLLM that knows no text format",
        ),
        pytest.param(
            "sglang",
            {
                INFO: answer(
                    {
                        "version": "0.5.18",
                        "dp_size": 2,
                        "max_total_num_tokens": 20480,
                        "max_running_requests": 200,
                        "internal_states": [
                            {
                                "effective_max_running_requests_per_dp": 128,
                                "memory_usage": {"token_capacity": 20480},
                            },
                            {
                                "effective_max_running_requests_per_dp": 128,
                                "memory_usage": {"token_capacity": 20480},
                            },
                        ],
                    }
                )
            },
            ("sglang", "0.5.18", 256, 40960),
            id="SGLang, two ranks",
        ),
        pytest.param(
            "sglang",
            {INFO: answer({"version": "0.4.6", "max_total_num_tokens": 1000, "max_running_requests": 64})},
            ("sglang", "0.4.6", 64, 1000),
            id="older SGLang",
        ),
        pytest.param(
            "llama.cpp",
            {"/props": answer({"total_slots": 4, "build_info": "b6123-abc", "model_path": "m.gguf"})},
            ("llama.cpp", "b6123-abc", 4, None),
            id="llama.cpp",
        ),
        pytest.param(
            "simulated",
            {"/props": answer({"total_slots": 8, "build_info": "sagellm-simulated"})},
            ("simulated", "sagellm-simulated", 8, None),
            id="our own",
        ),
        pytest.param(
            "",
            {INFO: Answer(404, b""), "/props": Answer(404, b""), "/api/version": answer({"version": "0.12.3"})},
            ("ollama", "0.12.3", None, None),
            id="Ollama",
        ),
        pytest.param(
            "",
            {INFO: answer({"internal_states": [], "version": "1"}), "/api/version": answer({"version": "2"})},
            ("sglang", "1", None, None),
            id="SGLang under another owner, with Ollama's paths",
        ),
        pytest.param("", {"/props": answer({"total_slots": 2})}, ("llama.cpp", "", 2, None), id="by its slots"),
        pytest.param("", {}, ("openai", "", None, None), id="anything"),
    ],
)
def test_facts(kind: str, answers: dict[str, Answer], expected: tuple[object, ...]) -> None:
    facts = read_facts(kind, rows({"id": "m"}), answers)
    told = (facts.kind, facts.version, facts.models, facts.slots, facts.kv_tokens)
    assert told == (expected[0], expected[1], (ModelFacts("m"),), expected[2], expected[3])


@pytest.mark.parametrize(
    ("kind", "info", "order"),
    [
        ("vllm", {}, LOW_FIRST),
        ("sglang", {}, ""),
        ("sglang", {"enable_priority_scheduling": True}, HIGH_FIRST),
        ("sglang", {"enable_priority_scheduling": True, "schedule_low_priority_values_first": True}, LOW_FIRST),
        ("llama.cpp", {}, ""),
    ],
)
def test_who_knows_priorities(kind: str, info: dict[str, object], order: str) -> None:
    assert read_facts(kind, rows({"id": "m"}), {INFO: answer(info)}).priority_order == order


ODD = [None, True, -1, 0, 1.5, "x", "", [], [1], {}, {"a": 1}, [[]], 10**30]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama.cpp", "simulated", ""])
def test_odd_json_is_left_out(kind: str, odd: object) -> None:
    texts = [
        orjson.dumps(odd if not isinstance(odd, int) or abs(odd) < 2**63 else str(odd)),
        orjson.dumps({"vllm_config": odd if odd != 10**30 else None, "internal_states": [None, "x"]}),
        orjson.dumps({"internal_states": [{"memory_usage": "x"}], "dp_size": "x", "version": 7}),
        orjson.dumps({"total_slots": "x", "build_info": [], "version": None}),
        b'vllm:cache_config_info{num_gpu_blocks="None",block_size="16"} 1\nvllm:cache_config_info{} 1\nx{',
        b"\xff\xfe{",
        b"",
    ]
    for text in texts:
        answers = dict.fromkeys(("/version", "/metrics", INFO, "/props", "/api/version"), Answer(200, text))
        facts = read_facts(kind, rows({"id": "m"}), answers)
        assert isinstance(facts.version, str)
        assert facts.slots is None
        assert facts.kv_tokens is None


@pytest.mark.parametrize(("status", "complete"), [(0, False), (503, False), (200, True), (404, True), (500, True)])
def test_a_question_without_an_answer_is_no_answer(status: int, complete: bool) -> None:
    answers = {"/props": Answer(status, b"{}")}
    assert read_facts("llama.cpp", rows({"id": "m"}), answers).complete is complete


@pytest.mark.parametrize(
    ("models", "kind"),
    [
        ([{"id": "a", "owned_by": "vllm"}], "vllm"),
        ([{"id": "a", "owned_by": "sglang"}], "sglang"),
        ([{"id": "a", "owned_by": "llamacpp"}], "llama.cpp"),
        ([{"id": "a", "owned_by": "sagellm-simulated"}], "simulated"),
        ([{"id": "a", "owned_by": "library"}, {"id": "b", "owned_by": ["vllm"]}], ""),
        ([{"id": "a", "owned_by": "vllm", "served_by": "sagellm-control"}], ""),
        ([], ""),
    ],
)
def test_kind_of_owner(models: list[dict[str, Any]], kind: str) -> None:
    assert kind_of_owner(rows(*models)) == kind


def test_adapters_and_further_names_have_a_parent() -> None:
    models = rows(
        {"id": "base", "owned_by": "vllm", "root": "/m"},
        {"id": "alias", "owned_by": "vllm", "root": "/m"},
        {"id": "lora", "owned_by": "vllm", "root": "/l", "parent": "alias"},
    )
    named = [(model.name, model.parent) for model in read_facts("vllm", models, {}).models]
    assert named == [("base", None), ("alias", "base"), ("lora", "alias")]
    assert read_facts("openai", models, {}).models[1].parent is None


def test_what_is_said_of_a_model_is_kept_but_for_what_each_answer_makes_up() -> None:
    said = {"owned_by": "vllm", "root": "/m", "parent": None, "max_model_len": 8192}
    made_up = {"id": "m", "object": "model", "created": 1788000000, "permission": [{"id": "modelperm-1"}]}
    (model,) = read_facts("vllm", rows({**made_up, **said}), {}).models
    assert orjson.loads(model.card) == said
    assert read_facts("openai", rows({"id": "m"}), {}).models == (ModelFacts("m"),)


def test_what_is_too_long_or_too_deep_to_be_kept_is_left_out() -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    said = {"id": "m", "chat_template": "x" * 10_000, "deep": deep, "meta": {"n_ctx_train": 4096}}
    (model,) = read_facts("llama.cpp", [said], {}).models
    assert orjson.loads(model.card) == {"meta": {"n_ctx_train": 4096}}
    (model,) = read_facts("llama.cpp", rows({"id": "m", **{f"f{n}": "y" * 99 for n in range(100)}}), {}).models
    assert 1900 < len(model.card) <= 2048


@pytest.mark.parametrize("data", [[None, 1, "x", {}, {"id": 7}, {"id": ""}, {"id": "a"}]])
def test_odd_rows_are_left_out(data: list[object]) -> None:
    assert model_rows("http://e", answer({"data": data})) == [{"id": "a"}]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (Answer(401, b""), ValueError, "wants an API key"),
        (Answer(403, b""), ValueError, "wants an API key"),
        (Answer(404, b""), ValueError, "no list of models"),
        (Answer(200, b"<html>"), ValueError, "no list of models"),
        (Answer(200, b'{"data": 1}'), ValueError, "no list of models"),
        (Answer(200, b"[]"), ValueError, "no list of models"),
        (Answer(503, b'{"error":{"message":"Loading model"}}'), EngineUnreachable, "Loading model"),
        (Answer(429, b""), EngineUnreachable, "not ready"),
    ],
)
def test_no_list_of_models(given: Answer, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        model_rows("http://e", given)
