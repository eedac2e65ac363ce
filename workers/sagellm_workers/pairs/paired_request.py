"""What the workers of two engines that hold one request together tell each other.

SGLang's engines with a ``--disaggregation-mode`` get the same request at the same time, one to read the prompt and one
to answer, with three more fields: the address of the prefilling engine's bootstrap server, and the number of a room in
which the two meet (``bootstrap_host``, ``bootstrap_port``, ``bootstrap_room``; see SGLang's own router).

1. The request is assigned to the decoding engine, as any. Its worker submits the prompt as a request of its own.
2. That one is assigned to a prefilling engine, as any. Its worker picks a room, says where it is, and calls its engine.
3. The decoding engine's worker hears of the room, and calls its engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from sagellm_control.wire.engine import EngineRole
from sagellm_control.wire.states import RequestKind

from ..adapters.base import EngineFacts
from ..adapters.loose_json import mapping, text
from ..adapters.sse import data_of
from ..adapters.told_error import ToldError, told_error

ROOM_BITS = 63
MOST_ERROR_BYTES = 1 << 16


_ROLES = {"prefill": EngineRole.PREFILL, "decode": EngineRole.DECODE}


def paired_role(facts: EngineFacts | None) -> EngineRole | None:
    """The role that the engine was started for; None: it takes whole requests."""
    return _ROLES.get(facts.disaggregation) if facts else None


def paired_kinds(facts: EngineFacts | None) -> tuple[str, ...]:
    """The kinds of request that it takes; empty: all. Without a partner, any other would be the end of it."""
    return (RequestKind.CHAT, RequestKind.COMPLETION) if paired_role(facts) else ()


@dataclass(frozen=True, slots=True)
class PromptOrder:
    """The body of the request that reads a prompt."""

    request_id: str
    """Of the request whose prompt it is."""
    attempt: int
    """That holds the request; when another one does, nobody needs the prompt any more."""
    body: bytes
    """The client's JSON, as the engines get it."""

    def encode(self) -> bytes:
        """A line about the request, and the body."""
        return orjson.dumps({"request_id": self.request_id, "attempt": self.attempt}) + b"\n" + self.body

    @classmethod
    def decode(cls, encoded: bytes) -> PromptOrder:
        """Raises ValueError: it is none."""
        head, found, body = encoded.partition(b"\n")
        fields = mapping(orjson.loads(head))
        request_id, attempt = text(fields.get("request_id")), fields.get("attempt")
        if not found or not request_id or not isinstance(attempt, int):
            raise ValueError("no request whose prompt is to be read")
        return cls(request_id, attempt, body)


def error_in(answer: bytes) -> ToldError | None:
    """What is wrong, where an answer of status 200 says so: in its first event, or in its one object; None: nothing."""
    return told_error(next(iter(data_of(answer[:MOST_ERROR_BYTES])), answer))


def meeting_place(url: str, bootstrap_port: int, room: int) -> dict[str, Any]:
    """The fields that tell both engines where to meet.

    Args:
        url: of the prefilling engine, by which its partners have to reach it too.
    """
    host = urlsplit(url).hostname or ""
    return {
        "bootstrap_host": f"[{host}]" if ":" in host else host,
        "bootstrap_port": bootstrap_port,
        "bootstrap_room": room,
    }


def with_meeting_place(body: bytes, place: dict[str, Any]) -> bytes:
    """The body that an engine gets."""
    return orjson.dumps({**mapping(orjson.loads(body)), **place})
