"""One request for text, read from any of the wires: which answers to make, and how to send them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from .answers import answer_tokens
from .prompts import Prompt
from .refusal import Refusal
from .request_body import RequestBody
from .settings import SimulatedEngineSettings

# A request may ask for this many answers to each prompt; OpenAI's own limit.
MAX_CHOICES = 128


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: the tokens to make, all known from the start, and why it ends."""

    index: int
    prompt: Prompt
    tokens: list[str]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Generation:
    reply_id: str
    created: int
    model: str
    choices: list[Choice]
    stream: bool
    include_usage: bool

    @property
    def prompt_tokens(self) -> int:
        """Each prompt counts once, however many answers it gets."""
        return sum({id(choice.prompt): choice.prompt.tokens for choice in self.choices}.values())

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.tokens) for choice in self.choices)


def read_generation(
    body: RequestBody, prompts: Sequence[Prompt], model: str, reply_id: str, settings: SimulatedEngineSettings
) -> Generation:
    """Read the fields that all wires share and decide the answers."""
    limit = body.integer("max_completion_tokens", least=1)
    if limit is None:
        limit = body.integer("max_tokens", least=1)
    seed = body.integer("seed") or 0
    n = body.integer("n", least=1, most=MAX_CHOICES) or 1
    options = body.table("stream_options")
    choices: list[Choice] = []
    for prompt in prompts:
        for variant in range(n):
            if limit is not None:
                count, reason = min(limit, settings.max_output_tokens), "length"
            else:
                # The answer ends where it would have ended had it not been interrupted.
                count, reason = max(0, settings.default_output_tokens - prompt.answered), "stop"
            tokens = answer_tokens(prompt.text, count, seed + variant, start=prompt.answered)
            choices.append(Choice(len(choices), prompt, tokens, reason))
    return Generation(
        reply_id=reply_id,
        created=int(time.time()),
        model=model,
        choices=choices,
        stream=body.flag("stream"),
        include_usage=options is not None and options.flag("include_usage"),
    )


def new_reply_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def read_model(body: RequestBody, served: Sequence[str]) -> str:
    """The model of a request on the OpenAI wire: it must be there and be one of those served."""
    model = body.text("model")
    if model is None:
        raise Refusal(400, "model is missing", param="model")
    if model not in served:
        known = ", ".join(served)
        raise Refusal(404, f"The model {model!r} does not exist; this engine serves: {known}", param="model")
    return model
