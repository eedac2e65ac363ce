"""The requests that are sent, and the check that an answer is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import orjson

from sagellm_control.simulated_engine.answers import answer_tokens
from sagellm_control.simulated_engine.prompts import chat_prompt

from .system import HOST, MODEL

PROMPTS = 64
"""Different prompts have different answers, so answers that were swapped are noticed."""

_CONTENT = re.compile(rb'"content":"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Chat:
    """One streaming chat request, ready to be sent, and the tokens of its answer."""

    wire: bytes
    tokens: tuple[bytes, ...]

    def problem(self, answer: bytes) -> str:
        """What is wrong with the body of an answer; empty: each token is there once and in order, and ``[DONE]``."""
        if answer.count(b"data: [DONE]\n\n") != 1:
            return "no [DONE]" if b"[DONE]" not in answer else "more than one [DONE]"
        found = _CONTENT.findall(answer)
        if len(found) != len(self.tokens):
            return f"{len(found)} tokens instead of {len(self.tokens)}"
        return "" if tuple(found) == self.tokens else "other tokens than the engine makes"


def chats(port: int, tokens: int) -> Iterator[Chat]:
    """Chats with ``tokens`` tokens in the answer, for whoever listens on the port, without end."""
    return cycle([chat(port, f"Question {i}: why?", tokens) for i in range(PROMPTS)])


def chat(port: int, question: str, tokens: int) -> Chat:
    """A chat with this question and so many tokens in the answer."""
    messages: list[dict[str, object]] = [{"role": "user", "content": question}]
    body = orjson.dumps({"model": MODEL, "messages": messages, "max_tokens": tokens, "stream": True})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Chat(head.encode() + body, tuple(t.encode() for t in answer_tokens(chat_prompt(messages), tokens)))
