"""A body in an encoding that is not taken is refused, and its sender told which are."""

from __future__ import annotations

import zlib

import pytest
from aiohttp.compression_utils import HAS_BROTLI, HAS_ZSTD

from .asking import CHAT_PATH, chat_bytes, error_of
from .conftest import StartEngine, StartSystem
from .in_process import InProcessSystem

UNKNOWN = ["foo", "gzip, gzip", "x-gzip", "é"] + ["br"] * (not HAS_BROTLI) + ["zstd", "ZSTD"] * (not HAS_ZSTD)


@pytest.fixture
async def system(start_engine: StartEngine, start_system: StartSystem) -> InProcessSystem:
    return await start_system(await start_engine())


@pytest.mark.parametrize("encoding", UNKNOWN)
async def test_one_that_is_not_known(system: InProcessSystem, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    for path in (CHAT_PATH, "/v1/completions", "/v1/embeddings", "/admin/set_policy"):
        async with system.session.post(system.url + path, data=chat_bytes(), headers=headers) as response:
            assert response.status == 415
            error = await error_of(response)
            taken = response.headers["Accept-Encoding"]
        assert (error["code"], error["param"]) == ("unsupported_encoding", "Content-Encoding")
        assert error["message"] == f"A body may come in one of these encodings, or as it is: {taken}."
        assert taken.startswith("gzip, deflate")


async def test_one_that_is_sent_twice(system: InProcessSystem) -> None:
    headers = [("Content-Encoding", "gzip"), ("Content-Encoding", "deflate")]
    async with system.session.post(system.url + CHAT_PATH, data=chat_bytes(), headers=headers) as response:
        assert response.status == 415


async def test_whoever_waits_to_be_asked_for_the_body_is_told_before(system: InProcessSystem) -> None:
    headers = {"Content-Encoding": "foo"}
    path = system.url + CHAT_PATH
    async with system.session.post(path, data=chat_bytes(), headers=headers, expect100=True) as response:
        assert response.status == 415


@pytest.mark.parametrize("encoding", ["identity", "Deflate", ""])
async def test_one_that_is_known(system: InProcessSystem, encoding: str) -> None:
    body = chat_bytes(max_tokens=1)
    sent = zlib.compress(body) if encoding == "Deflate" else body
    headers = {"Content-Encoding": encoding}
    async with system.session.post(system.url + CHAT_PATH, data=sent, headers=headers) as response:
        assert response.status == 200, await response.text()
