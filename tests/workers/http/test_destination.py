"""The short way of a request to an engine: what never leaves on it."""

from __future__ import annotations

import httpx
import pytest

from sagellm_workers.http.transport import EngineClient, RequestBody

from ..conftest import Serve


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
async def test_a_header_cannot_become_two(serve: Serve, client: EngineClient, end: str) -> None:
    url = await serve({"POST /a": 500})
    request = httpx.Request("POST", url + "/a", headers={"X-A": f"1{end}X-B: 2"}, stream=RequestBody(b"{}"))
    with pytest.raises(httpx.LocalProtocolError, match="end of a line"):
        await client.send(request)
