"""An engine whose tokens cost as little as can be: what is left to measure is who brings them to the client.

python -m benchmarks.free_engine PORT MODEL

It streams the events of the simulated engine, and as that does when its tokens take no time: at each turn of the event
loop every running answer gets one. But an answer is made once for each request body, and no HTTP framework stands
before it, so that the engine takes as little as can be of the processor from what is measured.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from functools import lru_cache

import orjson
import uvloop

from sagellm_control.simulated_engine.generation import new_reply_id, read_generation
from sagellm_control.simulated_engine.openai_reply import ChatReply
from sagellm_control.simulated_engine.prompts import read_chat
from sagellm_control.simulated_engine.request_body import RequestBody
from sagellm_control.simulated_engine.settings import SimulatedEngineSettings

from .plain_http import PlainHttp, json_answer, serve
from .system import ENGINE_SLOTS

MOST_RECORDED = 10_000
"""Answers kept; benchmarks ask some hundred different ones."""

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


class Answers:
    """All that run in this process: a token for each at every turn."""

    def __init__(self) -> None:
        self._running: dict[FreeEngine, Iterator[bytes]] = {}
        self._turning = False

    def begin(self, connection: FreeEngine, pieces: tuple[bytes, ...]) -> None:
        """Send so many pieces, one a turn."""
        self._running[connection] = iter(pieces)
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def end(self, connection: FreeEngine) -> None:
        """The client has gone."""
        self._running.pop(connection, None)

    def _turn(self) -> None:
        for connection, pieces in list(self._running.items()):
            if (piece := next(pieces, None)) is None:
                del self._running[connection]
            else:
                connection.write(piece)
        self._turning = bool(self._running)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)


class FreeEngine(PlainHttp):
    """One connection."""

    def __init__(self, model: str, answers: Answers) -> None:
        super().__init__()
        self._answers = answers
        listed = {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "sagellm-simulated"}]}
        self._facts = {
            b"/health": json_answer(b'{"status":"ok"}'),
            b"/v1/models": json_answer(orjson.dumps(listed)),
            b"/props": json_answer(orjson.dumps({"total_slots": ENGINE_SLOTS})),
        }

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST /v1/chat/completions "):
            self._answers.begin(self, recorded(body))
        else:
            _, path, version = head.partition(b"\r\n")[0].split(b" ", 2)
            self.write(self._facts.get(path) or json_answer(b"{}", b"404 Not Found"))
            if version == b"HTTP/1.0":
                self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._answers.end(self)


@lru_cache(maxsize=MOST_RECORDED)
def recorded(body: bytes) -> tuple[bytes, ...]:
    """The answer to a chat that is to be streamed, as pieces of the connection's bytes: a token each, then the end."""
    request = RequestBody.parse(body)
    model = request.text("model") or ""
    generation = read_generation(
        request, [read_chat(request)], model, new_reply_id("chatcmpl"), SimulatedEngineSettings()
    )
    reply = ChatReply(generation)
    (events,) = reply.events()
    prefixes = [events.first_prefix] + [events.prefix] * (len(events.pieces) - 1)
    tokens = [prefix + piece + events.suffix for prefix, piece in zip(prefixes, events.pieces, strict=True)]
    first, *others = [b"%x\r\n%b\r\n" % (len(event), event) for event in (*tokens, reply.closing([]))]
    others[-1] += b"0\r\n\r\n"
    return (_HEAD + first, *others)


def main(port: int, model: str) -> None:
    """The whole process."""
    answers = Answers()
    uvloop.run(serve(port, lambda: FreeEngine(model, answers)))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
