"""An engine that was registered by host and port, to be served by whichever worker adopts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from .engine import EngineRole
from .states import EngineState, RequestKind

DEFAULT_ROOM = 256
"""Requests on an engine at once, where its registration does not say."""

_TEXT = (RequestKind.CHAT, RequestKind.COMPLETION, RequestKind.RESERVATION)
_VECTORS = (RequestKind.EMBEDDING, RequestKind.VECTOR_RESERVATION)


def instance_type_of(metadata: Mapping[str, Any] | None) -> str:
    """What an engine is for, by what its registration says; ``general`` where that says nothing."""
    return str((metadata or {}).get("instance_type", "general"))


def kinds_of(engine_kind: str, instance_type: str) -> tuple[RequestKind, ...]:
    """The kinds of request that an engine takes, where others of its model take other ones."""
    if instance_type == "llm_embedding":
        return _TEXT + _VECTORS
    return _VECTORS if "embedding" in (engine_kind, instance_type) else _TEXT


def role_of(instance_type: str) -> EngineRole:
    """Which stages an engine takes; a type that is no role takes both."""
    try:
        return EngineRole(instance_type)
    except ValueError:
        return EngineRole.GENERAL


@dataclass(slots=True, frozen=True)
class Registration:
    """What a program said of the engine."""

    engine_id: str
    model_id: str
    host: str
    port: int
    engine_kind: str = "llm"
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    created_at: str = ""
    """ISO 8601."""
    state: str = ""
    """A state that a program has set by hand; empty: the engine's own."""
    server: str = ""
    """The process that serves it itself, as the engine is an object in it; empty: any worker that adopts."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def taken_out(self) -> bool:
        """Whether a program has set a state in which it takes no requests."""
        return self.state not in ("", EngineState.READY)

    def encode(self) -> bytes:
        """As the value of a hash field; what JSON does not know is written as its text."""
        return orjson.dumps(self, default=str, option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def decode(cls, value: bytes) -> Registration:
        """Read a hash field's value; fields that are not known are ignored.

        Raises:
            ValueError: it is none.
        """
        try:
            fields = cast(dict[str, Any], orjson.loads(value))
            known = {name: fields[name] for name in cls.__slots__ if name in fields}
            made = cls(**known)
            made._check()
        except (TypeError, ValueError) as error:
            raise ValueError(f"no registration: {error}") from error
        return made

    def _check(self) -> None:
        """Raises TypeError, ValueError: somebody has written what nobody who reads all registrations expects."""
        for name in ("engine_id", "model_id", "created_at", "state"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"{name} is {value!r}")
        if not isinstance(self.metadata, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - JSON may hold anything
            raise TypeError(f"metadata is {self.metadata!r}")
        if self.state:
            EngineState(self.state)
