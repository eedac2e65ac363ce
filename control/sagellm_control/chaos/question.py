"""A question to which the whole answer is known beforehand."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..simulated_engine.answers import answer_tokens
from ..wire.priority import RequestPriority
from .plan import LONGEST_ANSWER, LONGEST_PROMPT, POOL, SHORTEST_ANSWER


@dataclass(frozen=True)
class Question:
    """One chat."""

    prompt: str
    tokens: int
    stream: bool = True
    priority: RequestPriority = RequestPriority.NORMAL
    timeout_ms: int | None = None

    @cached_property
    def expected(self) -> list[str]:
        """The tokens of the answer."""
        return answer_tokens(self.prompt, self.tokens)

    @property
    def body(self) -> dict[str, Any]:
        """What a client sends."""
        body: dict[str, Any] = {
            "model": POOL,
            "stream": self.stream,
            "max_tokens": self.tokens,
            "messages": [{"role": "user", "content": self.prompt}],
        }
        return body | ({"stream_options": {"include_usage": True}} if self.stream else {})


def make_question(dice: random.Random, name: str, *, stream: bool = True, hurried: bool = False) -> Question:
    """A question of random length and urgency; ``name`` makes its answer unlike any other."""
    return Question(
        prompt=f"{name} " + "word " * dice.randrange(dice.choice((100, 100, 100, LONGEST_PROMPT))),
        tokens=dice.randint(SHORTEST_ANSWER, LONGEST_ANSWER),
        stream=stream,
        priority=dice.choice(list(RequestPriority)),
        timeout_ms=dice.randint(50, 2000) if hurried else None,
    )
