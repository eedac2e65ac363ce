"""What engines behind the OpenAI API say about themselves, and where.

* vLLM: `owned_by` "vllm"; /version; KV tokens in /metrics, as labels of `vllm:cache_config_info`; slots
  only in its development mode (VLLM_SERVER_DEV_MODE=1): /server_info, `scheduler_config.max_num_seqs`.
  Its `kv_cache_max_concurrency` is no number of slots: it is KV tokens over the longest context. Blocks ×
  block size is too much for hybrid models, so that is for versions before `kv_cache_size_tokens`
  (vllm-project/vllm#42206) only.
* SGLang: `owned_by` "sglang", or `internal_states` in /server_info (older: /get_server_info); there, for
  each data-parallel rank, `effective_max_running_requests_per_dp` and `memory_usage.token_capacity`. Also
  `disaggregation_mode` ("null", "prefill", "decode") and `disaggregation_bootstrap_port`.
* llama.cpp: `owned_by` "llamacpp", or `total_slots` in /props. Each slot has room of its own, so no KV
  tokens.
* Ollama: /api/version. It does not show OLLAMA_NUM_PARALLEL (1 by default).
* Our simulated engine: `owned_by` "sagellm-simulated", and /props as llama.cpp has it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from sagellm_control.wire.engine import SERVED_BY

from .base import EngineFacts, EngineUnreachable, ModelFacts
from .engine_http import Answer, EngineHttp
from .engine_priority import HIGH_FIRST, LOW_FIRST
from .loose_json import count, items, mapping, text

MODELS_PATH = "/v1/models"
SLOW_PROBE_TIMEOUT_S = 15.0  # vLLM's /server_info inspects the whole system the first time it is asked

CARD_BYTES = 2048  # of what is kept of one model
# vLLM makes up `created` and `permission` for each answer; `served_by` is what our own gateway says.
_NOT_OF_A_CARD = frozenset({"id", "object", "created", "permission", "served_by"})

_KIND_OF_OWNER = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
    "sagellm-simulated": "simulated",
}
_SERVER_INFO = "/server_info?config_format=json"  # vLLM needs the query, SGLang ignores it
_OLD_SERVER_INFO = "/get_server_info"
_PATHS_OF_KIND = {
    "vllm": ("/version", "/metrics", _SERVER_INFO),
    "sglang": (_SERVER_INFO,),
    "llama.cpp": ("/props",),
    "simulated": ("/props",),
    "": (_SERVER_INFO, "/props", "/api/version"),  # the list of models did not tell
}
_NOTHING = Answer(0, b"")
_NO_ANSWER = frozenset({0, 429, 502, 503, 504})  # "not now", or a proxy's word for a silent engine
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


async def survey(http: EngineHttp) -> EngineFacts:
    """Ask an engine for its models and for what its kind tells.

    Raises EngineUnreachable if it does not answer or is not ready, ValueError if it has no OpenAI API.
    """
    return await survey_from(http, await http.get(MODELS_PATH))


async def survey_from(http: EngineHttp, models: Answer) -> EngineFacts:
    """`survey`, with the answer to /v1/models at hand."""
    rows = model_rows(http.url, models)
    kind = kind_of_owner(rows)
    paths = _PATHS_OF_KIND[kind]
    answers = dict(zip(paths, await asyncio.gather(*(_ask(http, path) for path in paths)), strict=True))
    if kind == "sglang" and answers[_SERVER_INFO].status == 404:
        answers[_SERVER_INFO] = await _ask(http, _OLD_SERVER_INFO)
    return replace(read_facts(kind, rows, answers), gateway=models.fields.get("served_by") == SERVED_BY)


def model_rows(url: str, answer: Answer) -> list[dict[str, Any]]:
    """The rows of /v1/models. Raises as `survey` does."""
    if answer.status in (401, 403):
        raise ValueError(
            f"engine {url} wants an API key (it answered {answer.status}): "
            "set worker.api_key (SAGELLM_CONTROL_WORKER_API_KEY)"
        )
    if answer.status == 429 or answer.status >= 500:
        raise EngineUnreachable(f"engine {url} is not ready: {answer.status} {answer.body[:200]!r}")
    rows = answer.fields.get("data")
    if not isinstance(rows, list):
        raise ValueError(f"engine {url} has no list of models: GET {MODELS_PATH} answered {answer.status}")
    return [row for row in map(mapping, items(rows)) if text(row.get("id"))]


def kind_of_owner(rows: list[dict[str, Any]]) -> str:
    """The engine's kind by what it wrote into `owned_by`; "" if that is nobody whom we know.

    What is `served_by` a gateway of ours is owned by the engines behind that.
    """
    owners = [text(row.get("owned_by")) for row in rows if "served_by" not in row]
    return next((_KIND_OF_OWNER[owner] for owner in owners if owner in _KIND_OF_OWNER), "")


def read_facts(kind: str, rows: list[dict[str, Any]], answers: Mapping[str, Answer]) -> EngineFacts:
    """Put the answers together. What is missing or odd is left out."""
    info = answers.get(_SERVER_INFO, _NOTHING).fields
    props = answers.get("/props", _NOTHING).fields
    ollama = answers.get("/api/version", _NOTHING).fields
    if not kind:
        # SGLang answers Ollama's paths too, so its own come first.
        if isinstance(info.get("internal_states"), list):
            kind = "sglang"
        elif count(props.get("total_slots")) is not None:
            kind = "llama.cpp"
        elif "version" in ollama:
            kind = "ollama"
        else:
            kind = "openai"
    version, slots, kv_tokens = "", None, None
    priority_order = disaggregation = ""
    bootstrap_port = 0
    match kind:
        case "vllm":
            version = text(answers.get("/version", _NOTHING).fields.get("version"))
            slots = _vllm_slots(info)
            kv_tokens = _vllm_kv_tokens(answers.get("/metrics", _NOTHING))
            priority_order = LOW_FIRST
        case "sglang":
            version = text(info.get("version"))
            slots, kv_tokens = _sglang_room(info)
            if (mode := text(info.get("disaggregation_mode"))) in ("prefill", "decode"):
                disaggregation = mode
                bootstrap_port = count(info.get("disaggregation_bootstrap_port")) or 0
            if info.get("enable_priority_scheduling") is True:
                low_first = info.get("schedule_low_priority_values_first") is True
                priority_order = LOW_FIRST if low_first else HIGH_FIRST
        case "llama.cpp" | "simulated":
            version = text(props.get("build_info"))
            slots = count(props.get("total_slots"))
        case "ollama":
            version = text(ollama.get("version"))
        case _:
            pass
    return EngineFacts(
        kind,
        version,
        _models(kind, rows),
        slots,
        kv_tokens,
        disaggregation=disaggregation,
        bootstrap_port=bootstrap_port,
        priority_order=priority_order,
        complete=all(answer.status not in _NO_ANSWER for answer in answers.values()),
    )


def _models(kind: str, rows: list[dict[str, Any]]) -> tuple[ModelFacts, ...]:
    names = [(row["id"], text(row.get("parent")) or None, _card(row)) for row in rows]
    if kind == "vllm":
        # One vLLM serves one model: what else has no parent is a further --served-model-name of it.
        base = next((name for name, parent, _ in names if parent is None), None)
        names = [(name, base if parent is None and name != base else parent, card) for name, parent, card in names]
    return tuple(ModelFacts(name, parent, card) for name, parent, card in names)


def _card(row: Mapping[str, Any]) -> str:
    """What is left of a row without what is ours to say and what differs each time; what is too long is left out."""
    card: dict[str, Any] = {}
    for name, value in row.items():
        try:
            fits = name not in _NOT_OF_A_CARD and len(orjson.dumps(card | {name: value})) <= CARD_BYTES
        except orjson.JSONEncodeError:  # too deep
            continue
        if fits:
            card[name] = value
    return orjson.dumps(card).decode() if card else ""


async def _ask(http: EngineHttp, path: str) -> Answer:
    try:
        return await http.get(path, timeout_s=SLOW_PROBE_TIMEOUT_S)
    except EngineUnreachable:
        return _NOTHING  # the engine lives, it just does not tell this


def _vllm_slots(info: Mapping[str, Any]) -> int | None:
    config = mapping(info.get("vllm_config"))
    ranks = count(mapping(config.get("parallel_config")).get("data_parallel_size")) or 1
    each = count(mapping(config.get("scheduler_config")).get("max_num_seqs"))
    return None if each is None else each * ranks


def _vllm_kv_tokens(metrics: Answer) -> int | None:
    """The sum over the data-parallel ranks, each of which writes a line of its own."""
    if metrics.status != 200:
        return None
    total = 0
    for labels in _label_sets(metrics.body.decode("utf-8", "replace"), "vllm:cache_config_info"):
        tokens = count(labels.get("kv_cache_size_tokens"))
        if tokens is None:
            blocks, size = count(labels.get("num_gpu_blocks")), count(labels.get("block_size"))
            tokens = blocks * size if blocks and size else 0
        total += tokens
    return total or None


def _sglang_room(info: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Slots and KV tokens, summed over the data-parallel ranks."""
    ranks = count(info.get("dp_size")) or 1
    slots = tokens = 0
    for state in map(mapping, items(info.get("internal_states"))):
        slots += count(state.get("effective_max_running_requests_per_dp")) or 0
        tokens += count(mapping(state.get("memory_usage")).get("token_capacity")) or 0
    # Before the ranks told: the limit that was set is shared among the ranks, the cache is each rank's own.
    slots = slots or count(info.get("max_running_requests")) or 0
    tokens = tokens or (count(info.get("max_total_num_tokens")) or 0) * ranks
    return slots or None, tokens or None


def _label_sets(metrics: str, metric: str) -> Iterator[dict[str, str]]:
    for line in metrics.splitlines():
        if line.startswith(metric + "{"):
            yield dict(_LABEL.findall(line))
