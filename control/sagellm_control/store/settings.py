"""Settings of the store."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RedisSettings(BaseModel):
    """Where the shared state lives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis or Valkey: redis://, rediss:// (TLS), unix://, redis+sentinel://HOST:PORT,HOST:PORT/NAME "
        "or redis+cluster://HOST:PORT,HOST:PORT; user and password as in redis://USER:PASSWORD@HOST",
    )
    namespace: str = Field(
        default="sagellm",
        pattern=r"^[A-Za-z0-9_.-]{1,40}$",
        description="First part of every key; two namespaces on one server do not see each other",
    )
    command_timeout_s: float = Field(
        default=5.0, gt=0, le=300, description="Longest wait (s) for the answer to a command"
    )
    connect_timeout_s: float = Field(default=2.0, gt=0, le=300, description="Longest wait (s) for a connection")
