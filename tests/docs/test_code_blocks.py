"""The Python of README.md and docs/api.md runs as it stands, but for the address of what it talks to."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sagellm_protocol import Request

from ..flow.asking import MODEL
from ..flow.conftest import start_engine as start_engine
from ..flow.conftest import start_system as start_system

ROOT = Path(__file__).parents[2]
REQUEST = Request(request_id="1", trace_id="1", model=MODEL, prompt="Hello", max_tokens=4, stream=False)


def blocks(page: str) -> dict[str, str]:
    """The Python blocks of a page, by their first line."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return {block.split("\n")[0]: block for block in found}


async def run(block: str, **names: Any) -> Mapping[str, Any]:
    """Run code that may await at its top level; its names afterwards."""
    code = compile(block, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result
    return names


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
async def test_the_library(page: str, start_engine: Any) -> None:
    engine = await start_engine()
    (block,) = (block for block in blocks(page).values() if "execute_request" in block)
    block = block.replace("my-model", MODEL).replace("8001", str(urlsplit(engine.url).port))
    names = await run(block, request=REQUEST)
    assert (names["response"].error, names["response"].output_text[:7]) == (None, "Answer ")
    await names["manager"].stop()


async def test_the_client_library(start_engine: Any, start_system: Any, capsys: pytest.CaptureFixture[str]) -> None:
    system = await start_system(await start_engine())
    (block,) = (block for block in blocks("README.md").values() if "QueueClient" in block)
    block = block.replace("my-model", MODEL)
    settings = f'url="{system.redis.url}", namespace="{system.redis.namespace}"'
    await run(block.replace('url="redis://127.0.0.1:6379/0"', settings))
    said = capsys.readouterr().out
    assert said.startswith("Answer ")
    assert said.endswith("\ncompleted: 200\n")


async def test_the_official_client(start_engine: Any, start_system: Any, capsys: pytest.CaptureFixture[str]) -> None:
    system = await start_system(await start_engine())
    block = blocks("README.md")["from openai import OpenAI"].replace("http://127.0.0.1:8000", system.url)
    await asyncio.to_thread(exec, compile(block, "README", "exec"), {})
    assert capsys.readouterr().out.startswith("Answer ")
