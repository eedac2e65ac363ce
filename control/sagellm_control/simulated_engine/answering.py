"""Answer one request for text: through the faults and the batcher to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import HttpVersion11, web

from .batcher import Work
from .engine import Engine
from .faults import FAULT_HEADER, Fault, FaultKind
from .refusal import Refusal
from .reply import Reply
from .request_body import RequestBody
from .token_stream import TokenStream

_SSE_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
_GARBAGE = b"<html>this is not JSON"
_GARBAGE_EVENTS = b'data: {"id": "broken", "choices": [{"delta\n\nno field of an event stream\n\ndata: \xff\xfe\n\n'

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def counted(engine: Engine, answer: Callable[[web.Request, RequestBody], Awaitable[web.StreamResponse]]) -> Handler:
    """Wrap what answers a request: read its body, turn refusals into answers, count what became of it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        counts = engine.counts
        counts.total += 1
        try:
            engine.check_key(request)
            return await answer(request, RequestBody.parse(await request.read()))
        except Refusal as refusal:
            counts.refused += 1
            return engine.refusal_response(refusal)
        except web.HTTPRequestEntityTooLarge:
            counts.refused += 1
            limit = f"the request body is larger than max_body_mb = {engine.settings.max_body_mb} MiB"
            return engine.refusal_response(Refusal(413, limit))
        except asyncio.CancelledError:  # aiohttp cancels the handler when the client closes the connection
            counts.aborted += 1
            raise
        except ConnectionError:  # it was closed while the answer was written
            counts.aborted += 1
            return web.Response()

    return handle


async def generate(
    engine: Engine, request: web.Request, reply: Reply, *, stream: bool, fetched: bool = False
) -> web.StreamResponse:
    """Run the answers of `reply` in the batcher and send them, unless a fault comes first.

    `fetched`: the prompts have been read by another engine.
    """
    fault = engine.faults.choose(request.headers.get(FAULT_HEADER))
    if fault is not None and fault.kind is not FaultKind.CUT:
        return await meet_fault(engine, request, fault, stream=stream)
    choices = reply.generation.choices
    works = [Work(0 if fetched else choice.prompt.tokens, len(choice.tokens)) for choice in choices]
    if fault is not None:
        for work in works:
            work.length = min(work.length, fault.after_tokens)
    if not stream:
        await run_works(engine, works)
        if fault is not None:
            return _cut(engine, request, web.Response())
        engine.counts.finished += 1
        return web.Response(body=reply.whole(works), content_type="application/json")

    response = web.StreamResponse(headers=_SSE_HEADERS)
    await response.prepare(request)
    if opening := reply.opening():
        await response.write(opening)
    transport = request.transport
    if transport is None:
        raise asyncio.CancelledError  # the client left while the headers were written
    chunked = request.version >= HttpVersion11
    for work, events in zip(works, reply.events(), strict=True):
        work.emit = TokenStream(transport, events, chunked=chunked).emit
    await run_works(engine, works)
    if fault is not None:
        return _cut(engine, request, response)
    await response.write_eof(reply.closing(works))
    engine.counts.finished += 1
    return response


async def run_works(engine: Engine, works: list[Work]) -> None:
    """Wait until all are done; if the client leaves first, their slots are free at once."""
    try:
        for work in works:
            engine.batcher.submit(work)
        for work in works:
            await work.done
    finally:
        for work in works:
            engine.batcher.abort(work)


async def meet_fault(engine: Engine, request: web.Request, fault: Fault, *, stream: bool) -> web.StreamResponse:
    """Answer, or do not, as the fault has it; no slot is taken. CUT here means: before the first byte."""
    if fault.kind is FaultKind.HANG:
        await engine.stopping.wait()
        return _cut(engine, request, web.Response())
    if fault.kind is FaultKind.CUT:
        return _cut(engine, request, web.Response())
    engine.counts.faulted += 1
    if fault.kind is FaultKind.FAIL:
        retry_after_s = fault.retry_after_s if fault.status in (429, 503) else 0
        refusal = Refusal(fault.status, f"simulated fault: {_phrase(fault.status)}")
        return engine.refusal_response(refusal, retry_after_s=retry_after_s)
    if stream:
        return web.Response(body=_GARBAGE_EVENTS, headers=_SSE_HEADERS)
    return web.Response(body=_GARBAGE, content_type="application/json")


def _cut(engine: Engine, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection once what was written is sent; aiohttp then finds it closed and goes on."""
    engine.counts.faulted += 1
    if request.transport is not None:
        request.transport.close()
    return response


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
