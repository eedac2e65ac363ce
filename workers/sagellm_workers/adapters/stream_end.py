"""Where a stream of OpenAI's ends, by what its events say."""

from __future__ import annotations

from .loose_json import items, mapping, parsed
from .sse import data_of

DONE = b"[DONE]"


class StreamEnd:
    """Reads a stream for its end: `[DONE]`, an error, or a finish reason of every choice that has begun.

    It parses all of it, so it is for streams of which nothing else tells the end.
    """

    def __init__(self) -> None:
        self._told = False
        self._begun: set[int] = set()
        self._finished: set[int] = set()

    @property
    def reached(self) -> bool:
        """Nothing of the answer is missing, though its usage may be."""
        return self._told or (bool(self._finished) and self._begun <= self._finished)

    def read(self, events: bytes) -> None:
        """Whole events came."""
        for data in data_of(events):
            if data.strip() == DONE:
                self._told = True
                continue
            try:
                chunk = mapping(parsed(data))
            except ValueError:
                continue
            self._told = self._told or bool(chunk.get("error"))
            for choice in map(mapping, items(chunk.get("choices"))):
                index = choice.get("index")
                number = index if isinstance(index, int) else 0
                self._begun.add(number)
                if choice.get("finish_reason"):
                    self._finished.add(number)


def is_whole(last: bytes) -> bool:
    """Whether the last event of a stream lacks no more than its blank line.

    An object shows it, as no beginning of one is JSON; of a number or a word nobody could tell.
    """
    found = data_of(last)
    if not found:
        return all(line.startswith(b":") for line in last.splitlines() if line)
    return all(data.strip() == DONE or _is_object(data) for data in found)


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(parsed(data), dict)
    except ValueError:
        return False
