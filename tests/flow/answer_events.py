"""The events of a streamed answer, as the client library gives them."""

from __future__ import annotations

import orjson

from sagellm_control.client import QueueClient
from sagellm_control.wire.event import CHUNK, END, Ending, Event
from sagellm_control.wire.states import Outcome


async def all_events(queue: QueueClient, request_id: str) -> list[Event]:
    """All of them, up to and with the end."""
    return [event async for event in queue.stream(request_id)]


def text_of(events: list[Event]) -> str:
    """The text that they make; asserts that the answer is complete and nothing of it is missing or doubled."""
    assert events[-1].type == END
    ending = Ending.decode(events[-1].payload)
    assert ending.outcome is Outcome.COMPLETED
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    raw = b"".join(event.payload for event in events if event.type == CHUNK) + ending.body
    assert raw.endswith(b"data: [DONE]\n\n")
    parts = [orjson.loads(part.removeprefix(b"data: ")) for part in raw.split(b"\n\n")[:-2]]
    return "".join(part["choices"][0]["delta"].get("content") or "" for part in parts)
