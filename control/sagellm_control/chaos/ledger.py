"""Everything that was asked, and what the clients were told."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from .question import Question
from .transcript import INTERRUPTIONS, Transcript

MOST_TOLD = 5
"""Of what was slowest, in a report."""


class Fate(StrEnum):
    """What came of a request, as its client saw it."""

    OPEN = "open"
    """The client has not been told how it ended."""
    FINISHED = "finished"
    """The whole answer came."""
    INTERRUPTED = "interrupted"
    """Part of the answer came, and then a clear error: its engine or worker died."""
    FAILED = "failed"
    """A clear error and nothing of an answer; or an error that is no interruption."""
    EXPIRED = "expired"
    """Its timeout passed."""
    CANCELLED = "cancelled"
    """Its client left or cancelled it."""
    UNHEARD = "unheard"
    """Its gateway died, and its client had no key with which to come back."""


@dataclass
class Asked:
    """One request."""

    question: Question
    request_id: str
    key: str | None = None
    """Its Idempotency-Key."""
    numbered: bool = False
    """Its events have ids, by which its client comes back."""
    accepted: bool = False
    """A gateway, or the client library, has said so."""
    fate: Fate = Fate.OPEN
    code: str = ""
    """Of its error."""
    asked_at: float = field(default_factory=time.monotonic)
    answered_s: float | None = None
    """From the first attempt to ask until the client was told how it ended, outages of all kinds included."""
    transcript: Transcript = field(init=False)

    def __post_init__(self) -> None:
        self.transcript = Transcript(self.question)

    def conclude(self) -> None:
        """The answer has ended: what came of it."""
        self.answered_s = time.monotonic() - self.asked_at
        self.code = self.transcript.error or ""
        self.fate = fate_of(self.transcript)


def fate_of(transcript: Transcript) -> Fate:
    """The fate of a request whose answer has ended."""
    match transcript.error:
        case None:
            return Fate.FINISHED
        case "deadline_exceeded":
            return Fate.EXPIRED
        case "cancelled":
            return Fate.CANCELLED
        case code if transcript.pieces and code in INTERRUPTIONS:
            return Fate.INTERRUPTED
        case _:
            return Fate.FAILED


@dataclass
class Ledger:
    """All requests of a run."""

    asked: dict[str, Asked] = field(default_factory=dict[str, Asked])
    refused: Counter[str] = field(default_factory=Counter[str])
    """Attempts that were not accepted, by their error code."""
    lost: set[str] = field(default_factory=set[str])
    """Requests that the queue had accepted and does not know any more."""
    problems: list[str] = field(default_factory=list[str])
    """What must not happen and is no matter of a single token, in words."""

    def open(self, question: Question, request_id: str, key: str | None = None, *, numbered: bool = False) -> Asked:
        """A request is about to be sent."""
        asked = self.asked[request_id] = Asked(question, request_id, key, numbered)
        return asked

    def refuse(self, asked: Asked, code: str) -> None:
        """It was not accepted."""
        self.refused[code] += 1
        if not asked.accepted:
            self.asked.pop(asked.request_id, None)

    def slowest(self) -> list[str]:
        """The answers that took longest, in words."""
        answered = [(asked.answered_s, asked) for asked in self.asked.values() if asked.answered_s is not None]
        answered.sort(key=lambda pair: pair[0], reverse=True)
        return [
            f"{asked.request_id} {asked.key or ''}: {asked.fate} after {s:.1f} s" for s, asked in answered[:MOST_TOLD]
        ]

    def fates(self) -> Counter[Fate]:
        """How many requests came to what."""
        return Counter(asked.fate for asked in self.asked.values())
