"""kv_transfer_params: a prompt is read by one engine, for another."""

from __future__ import annotations

from typing import Any

import pytest

from sagellm_control.simulated_engine import answer_tokens

from .conftest import RunningEngine, StartEngine, chat

CHAT = "/v1/chat/completions"
KEEP = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None}
PROMPT = "word " * 40
"""50 tokens: 4 blocks."""


async def _counts(engine: RunningEngine) -> tuple[int, int, int]:
    state = await engine.get("/simulated/state")
    return state["prompts_read"], state["prefills_kept"], state["prefills_fetched"]


async def _kept(engine: RunningEngine) -> dict[str, Any]:
    status, answer = await engine.post(CHAT, chat(PROMPT, max_tokens=1, kv_transfer_params=KEEP))
    assert status == 200
    return answer["kv_transfer_params"]


async def test_one_reads_and_another_answers(start_engine: StartEngine) -> None:
    p = await start_engine(engine_id="p")
    d = await start_engine(prefill_tokens_per_s=1, prefill_chunk_tokens=1)  # it would take 50 s to read the prompt
    where = await _kept(p)
    assert (where["remote_engine_id"], where["remote_block_ids"]) == ("p", [1, 2, 3, 4])
    assert (where["do_remote_prefill"], where["do_remote_decode"]) == (True, False)
    assert p.url == f"http://{where['remote_host']}:{where['remote_port']}"
    status, answer = await d.post(CHAT, chat(PROMPT, max_tokens=5, kv_transfer_params=where))
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "".join(answer_tokens(PROMPT, 5))
    assert answer["usage"]["prompt_tokens"] == 50
    assert "kv_transfer_params" not in answer
    assert (await _counts(p), await _counts(d)) == ((1, 1, 0), (0, 0, 1))


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"colour": "blue"}, 400, "colour"),
        ({"do_remote_prefill": "yes"}, 400, "do_remote_prefill"),
        ({"remote_engine_id": None}, 500, "remote_engine_id"),
        ({"remote_host": ""}, 500, "remote_host"),
        ({"remote_port": None}, 500, "remote_port"),
        ({"remote_block_ids": [1]}, 500, "remote_block_ids"),
        ({"remote_block_ids": None}, 500, "remote_block_ids"),
    ],
)
async def test_what_it_cannot_fetch(start_engine: StartEngine, change: dict[str, Any], status: int, named: str) -> None:
    p, d = await start_engine(), await start_engine()
    got, answer = await d.post(CHAT, chat(PROMPT, kv_transfer_params=await _kept(p) | change))
    assert got == status
    assert named in answer["error"]["message"]
    assert await _counts(d) == (0, 0, 0)
