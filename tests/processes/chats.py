"""Streamed chats whose every token is known beforehand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import aiohttp

from sagellm_control.simulated_engine.answers import answer_tokens

MODEL = "simulated-1"


@dataclass
class Chat:
    """One chat, as far as it has come."""

    prompt: str
    tokens: int
    status: int = 0
    request_id: str = ""
    text: str = ""
    error: dict[str, object] | None = None
    done: bool = False
    pieces: list[str] = field(default_factory=list[str])

    @property
    def expected(self) -> str:
        return "".join(answer_tokens(self.prompt, self.tokens))

    def check(self) -> None:
        """The answer is whole: every token once and in order, and a proper end."""
        assert self.status == 200, f"{self.prompt}: HTTP {self.status}"
        assert self.error is None, f"{self.prompt}: {self.error}"
        assert self.done, f"{self.prompt}: no end"
        assert self.text == self.expected, self.prompt


async def stream_chat(
    session: aiohttp.ClientSession, url: str, prompt: str, tokens: int, chat: Chat | None = None, **headers: str
) -> Chat:
    """Send a chat and read its stream to the end; ``chat`` is filled in while it goes on."""
    chat = chat or Chat(prompt, tokens)
    body = {
        "model": MODEL,
        "stream": True,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": prompt}],
    }
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        chat.status = answer.status
        chat.request_id = answer.headers.get("X-Request-ID", "")
        if answer.status != 200:
            chat.error = (await answer.json())["error"]
            return chat
        async for line in answer.content:
            if line.startswith(b"data: [DONE]"):
                chat.done = True
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    chat.error = event["error"]
                    continue
                piece = event["choices"][0]["delta"].get("content") or ""
                chat.pieces.append(piece)
                chat.text += piece
    return chat
