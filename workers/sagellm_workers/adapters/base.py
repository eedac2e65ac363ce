"""What the worker hands to an engine and what it gets back, whatever wire the engine speaks.

    EngineError                 something between us and the engine failed
    ├── EngineUnreachable       never connected: refused, no such host, connect timeout, still loading
    ├── EngineTimeout           no first byte, or a gap between bytes, for longer than allowed
    ├── PartnerFailed           another engine that was to read the prompt did not
    ├── PartnerAnswered         it answered with an error status
    │   ├── PartnerRefused      it refused the prompt, as this one would
    │   └── PartnerBusy         it asked for a pause
    └── EngineBroken            the answer was cut, is no HTTP, or breaks the wire's promises
        ├── EngineFailed        the engine says so itself, in an answer of status 200
        └── AnswerTooLong       it would be as long on any other engine

An answer with an error status is no EngineError: it is a reply, and its body may be meant for the client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from sagellm_control.wire.event import Ending
from sagellm_control.wire.trace_context import TraceContext


class EngineError(Exception):
    """The exchange with the engine failed; the text names the engine, and is for operators."""

    def __init__(self, text: str, told: str = "") -> None:
        super().__init__(text)
        self.told = told
        """What clients are told behind the engine's id, as addresses are none of their business; empty: the text."""


class EngineUnreachable(EngineError):
    """The engine cannot be reached, so it has seen nothing of the request."""


class EngineTimeout(EngineError):
    """The engine went silent for longer than allowed."""


class PartnerFailed(EngineError):
    """The engine that was to read the prompt has failed; this one is not to blame."""


class PartnerAnswered(EngineError):
    """The engine that was to read the prompt has answered, with an error status."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(f"the prompt was refused ({ending.status})")
        self.ending = ending
        """What it said."""


class PartnerRefused(PartnerAnswered):
    """It has refused the prompt, as this one would."""


class PartnerBusy(PartnerAnswered):
    """It has asked for a pause; the request has not failed."""


class EngineBroken(EngineError):
    """The connection was cut in mid-answer, or what came is no answer."""


class EngineFailed(EngineBroken):
    """The engine has failed, and says so where the answer should go on."""

    def __init__(self, text: str, said: bytes) -> None:
        super().__init__(text)
        self.said = said
        """Its error, as JSON."""


class AnswerTooLong(EngineBroken):
    """The answer is longer than the worker takes."""


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One attempt of one request."""

    request_id: str  # the client's
    trace: TraceContext
    kind: str  # "chat" | "completion" | "embedding"
    stream: bool
    body: bytes  # the client's OpenAI JSON, unchanged
    priority: int  # 0 = CRITICAL … 4 = BACKGROUND
    sent_id: str  # the id for the engine, which may take none twice (see `id_of_attempt`)


@dataclass(frozen=True, slots=True)
class EngineReply:
    """Status line and body of the engine's answer.

    `chunks` of `text/event-stream`: each item holds one or more whole events, as the engine sent them, up to
    and including the blank line. Of an error, or any other content type: the body in pieces. Read them only
    inside the context that gave the reply; they raise EngineTimeout and EngineBroken.
    """

    status: int
    content_type: str
    retry_after_s: float | None
    chunks: AsyncIterator[bytes]

    @property
    def is_event_stream(self) -> bool:
        return is_event_stream(self.content_type)


def is_event_stream(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One name under which the engine answers."""

    name: str
    parent: str | None = None  # of a LoRA adapter, or of a further name of the same model: its base model
    card: str = ""  # JSON object: what else it says of the model, for whoever lists models; "": nothing


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says about itself. None: it does not say."""

    kind: str  # "vllm" | "sglang" | "llama.cpp" | "ollama" | "sagellm" | "simulated" | "openai"
    version: str  # "" when unknown
    models: tuple[ModelFacts, ...]
    slots: int | None  # requests that it runs at once
    kv_tokens: int | None  # tokens that its KV cache holds
    disaggregation: str = ""  # "prefill" or "decode" where it does only that, with a partner (SGLang)
    bootstrap_port: int = 0  # of one that prefills: where its partners ask for the prompt's KV blocks
    priority_order: str = ""  # which numbers it takes for urgent, see `engine_priority`; "": it knows none
    gateway: bool = False  # it is a gateway of this project: what it lists are the engines behind it
    complete: bool = True  # False: a question got no answer, so what is missing here may be there all the same


class EngineAdapter(Protocol):
    """One engine, behind the wire that it speaks."""

    @property
    def name(self) -> str:
        """The wire: "openai" or "sagellm"."""
        ...

    @property
    def url(self) -> str:
        """The engine's root, without a trailing "/v1"."""
        ...

    @property
    def bootstrap_port(self) -> int:
        """Of a paired engine that prefills (see `EngineFacts`); 0: it is none."""
        ...

    @property
    def heard_at(self) -> float:
        """When a part of any answer to a request came last (monotonic); -inf: none has."""
        ...

    async def probe(self) -> EngineFacts:
        """Ask the engine what it is. Raises EngineUnreachable, and ValueError if it is no such engine."""
        ...

    async def healthy(self) -> bool:
        """Whether the engine takes requests now. Never raises."""
        ...

    def run(self, call: EngineCall) -> AbstractAsyncContextManager[EngineReply]:
        """Send one request. Leaving the context before the answer is read to its end cuts the connection,
        which is how engines learn of a cancellation."""
        ...
