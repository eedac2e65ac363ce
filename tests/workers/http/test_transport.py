"""The shared client: what it keeps, what it does not, and how it meets dead and silent connections."""

from __future__ import annotations

import asyncio
import io
import socket

import httpx
import orjson
import pytest
from aiohttp import web

from sagellm_workers.adapters.base import EngineBroken, EngineUnreachable
from sagellm_workers.adapters.openai_http import OpenAIHttpAdapter
from sagellm_workers.http.transport import BIG_BODY_BYTES, EngineClient, engine_client

from ..conftest import EVENT_STREAM_HEAD, Serve, StartTalk, ask, chunked, read_request

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


async def test_no_cookie_is_kept(serve: Serve, client: EngineClient) -> None:
    cookies: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        response = web.json_response({})
        response.set_cookie("who", "somebody")
        return response

    url = await serve({"GET /a": handler})
    for _ in range(2):
        await client.get(url + "/a")
    assert cookies == [None, None]


async def test_redirects_are_not_followed(serve: Serve, client: EngineClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/b")

    url = await serve({"GET /a": handler, "GET /b": 200})
    assert (await client.get(url + "/a")).status_code == 307


@pytest.mark.parametrize("trust_env", [False, True])
async def test_proxy_variables_count_only_if_trusted(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, trust_env: bool
) -> None:
    async def proxy(_: web.Request) -> web.Response:
        return web.Response(text="proxy")

    monkeypatch.setenv("http_proxy", await serve({"GET /a": proxy}))
    monkeypatch.delenv("no_proxy", raising=False)
    url = await serve({"GET /a": "engine"})
    async with engine_client(trust_env=trust_env) as client:
        assert (await client.get(url + "/a")).text == ("proxy" if trust_env else "engine")


async def test_an_adapter_uses_a_trusted_proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def proxy(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), content_type="application/json")

    monkeypatch.setenv("http_proxy", await serve({"POST /v1/chat/completions": proxy}))
    monkeypatch.delenv("no_proxy", raising=False)
    async with engine_client(trust_env=True) as client:
        assert (await ask(OpenAIHttpAdapter("http://engine.invalid", client), body=b'{"a":1}')).body == b'{"a":1}'


async def test_an_interim_answer_is_passed_over(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + JSON_HEAD + b"{}")

    assert (await ask(OpenAIHttpAdapter(await talk(handler), client))).body == b"{}"


async def test_who_no_longer_waits_for_an_answer_cuts_the_connection(talk: StartTalk, client: EngineClient) -> None:
    asked, cut = asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        assert await reader.read() == b""
        cut.set()

    task = asyncio.create_task(ask(OpenAIHttpAdapter(await talk(handler), client)))
    await asked.wait()
    task.cancel()
    async with asyncio.timeout(10):
        await cut.wait()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_there_is_no_limit_on_connections(serve: Serve, client: EngineClient) -> None:
    everybody = asyncio.Barrier(150)

    async def handler(_: web.Request) -> web.Response:
        await everybody.wait()
        return web.json_response({})

    adapter = OpenAIHttpAdapter(await serve({"POST /v1/chat/completions": handler}), client)
    answers = await asyncio.gather(*(ask(adapter) for _ in range(150)))
    assert {answer.status for answer in answers} == {200}


async def test_connections_are_kept(talk: StartTalk, client: EngineClient) -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            writer.write(EVENT_STREAM_HEAD + chunked(b"data: 1\n\n"))

    adapter = OpenAIHttpAdapter(await talk(handler), client)
    for _ in range(5):
        assert (await ask(adapter)).body == b"data: 1\n\n"
    assert connections == 1


async def test_connections_send_without_delay(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(EVENT_STREAM_HEAD)
        await reader.read()

    response = await client.send(client.build_request("GET", await talk(handler)), stream=True)
    connection = response.stream._answer.connection  # type: ignore[union-attr]
    sock = connection.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    await response.aclose()


async def test_a_dead_kept_connection_is_replaced_by_a_new_one_20_of_20(talk: StartTalk, client: EngineClient) -> None:
    """As llama.cpp: the streamed answer announces keep-alive, and the next request finds the socket closed."""
    requests: list[int] = []  # how many each connection has answered
    swallowed = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal swallowed
        number = len(requests)
        requests.append(0)
        await read_request(reader)
        requests[number] += 1
        writer.write(EVENT_STREAM_HEAD + chunked(b"data: %d\n\n" % number))
        await writer.drain()
        await read_request(reader)  # the next one on this connection: closed without a byte
        swallowed += 1

    adapter = OpenAIHttpAdapter(await talk(handler), client)
    answers = [(await ask(adapter)).status for _ in range(41)]
    assert answers == [200] * 41
    assert swallowed == client.transport.dead_connections >= 20
    assert set(requests) == {1}


async def test_a_reset_kept_connection_is_replaced(talk: StartTalk, client: EngineClient) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(JSON_HEAD + b"{}")
        await reader.readuntil(b"\r\n\r\n")
        linger = socket.SO_LINGER
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, linger, b"\1\0\0\0\0\0\0\0")

    adapter = OpenAIHttpAdapter(await talk(handler), client)
    for _ in range(3):
        assert (await ask(adapter)).body == b"{}"
    assert client.transport.dead_connections >= 1


async def test_a_new_connection_that_dies_is_not_replaced(talk: StartTalk, client: EngineClient) -> None:
    requests = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1

    with pytest.raises(EngineBroken):
        await ask(OpenAIHttpAdapter(await talk(handler), client))
    assert (requests, client.transport.dead_connections) == (1, 0)


@pytest.mark.parametrize("first_bytes", [b"HTTP/1.1 200 OK\r\nContent-Type: text", EVENT_STREAM_HEAD])
async def test_after_the_first_byte_there_is_no_second_try(
    talk: StartTalk, client: EngineClient, first_bytes: bytes
) -> None:
    requests = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        writer.write(JSON_HEAD + b"{}")
        await read_request(reader)
        requests += 1
        writer.write(first_bytes)
        await writer.drain()

    adapter = OpenAIHttpAdapter(await talk(handler), client)
    await ask(adapter)
    with pytest.raises(EngineBroken):
        await ask(adapter)
    assert (requests, client.transport.dead_connections) == (1, 0)


async def test_the_second_try_can_fail(talk: StartTalk, client: EngineClient) -> None:
    answered = False

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        await read_request(reader)
        if not answered:
            answered = True
            writer.write(JSON_HEAD + b"{}")
            await read_request(reader)

    adapter = OpenAIHttpAdapter(await talk(handler), client)
    await ask(adapter)
    with pytest.raises(EngineBroken):
        await ask(adapter)
    assert client.transport.dead_connections == 1


async def test_nobody_listens(client: EngineClient, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(EngineUnreachable, match=rf"^engine {url} cannot be reached: Connection refused$"):
        await ask(OpenAIHttpAdapter(url, client))


async def test_no_such_host(client: EngineClient) -> None:
    with pytest.raises(EngineUnreachable, match=r"^engine http://engine.invalid:80 cannot be reached: [^:\[]+$"):
        await ask(OpenAIHttpAdapter("http://engine.invalid:80", client))


async def test_a_big_body_arrives_whole(serve: Serve, client: EngineClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        body = await request.read()
        return web.json_response(
            {"length": len(body), "type": request.headers["Content-Type"], "sent": request.headers["Content-Length"]}
        )

    body = orjson.dumps({"messages": "x" * (3 * BIG_BODY_BYTES)})
    answer = await ask(OpenAIHttpAdapter(await serve({"POST /v1/chat/completions": handler}), client), body=body)
    assert answer.json == {"length": len(body), "type": "application/json", "sent": str(len(body))}


async def test_an_answer_that_was_zipped_unasked_is_readable(serve: Serve, client: EngineClient) -> None:
    asked: list[str | None] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Accept-Encoding"))
        response = web.Response(text='{"a": "%s"}' % ("x" * 2000), content_type="application/json")
        response.enable_compression(web.ContentCoding.gzip)
        return response

    url = await serve({"POST /v1/chat/completions": handler, "GET /v1/models": handler})
    assert (await ask(OpenAIHttpAdapter(url, client))).json == {"a": "x" * 2000}
    assert (await client.get(url + "/v1/models")).json() == {"a": "x" * 2000}
    assert asked[0] == "identity"


async def test_a_closed_client_says_so(serve: Serve) -> None:
    client = engine_client()
    adapter = OpenAIHttpAdapter(await serve({"GET /health": 200}), client)
    assert await adapter.healthy()
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await ask(adapter)
    assert not await adapter.healthy()


async def test_any_httpx_client_will_do(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), content_type="application/json")

    url = await serve({"POST /v1/chat/completions": handler})
    async with httpx.AsyncClient() as client:
        assert (await ask(OpenAIHttpAdapter(url, client), body=b'{"a":1}')).body == b'{"a":1}'


async def test_the_client_sends_what_httpx_can(serve: Serve, client: EngineClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    url = await serve({"POST /a": handler})
    assert (await client.post(url + "/a", content=b"bytes")).content == b"bytes"
    assert (await client.post(url + "/a", json={"a": 1})).json() == {"a": 1}
    assert (await client.post(url + "/a", files={"f": io.BytesIO(b"x")})).status_code == 200
