"""Settings of the store."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..wire.keys import DEFAULT_NAMESPACE


class RedisSettings(BaseModel):
    """Where the shared state lives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis or Valkey: redis://, rediss:// (TLS), unix://, redis+sentinel://HOST:PORT,HOST:PORT/NAME "
        "or redis+cluster://HOST:PORT,HOST:PORT (rediss+… with TLS); user and password as in "
        "redis://USER:PASSWORD@HOST",
    )
    namespace: str = Field(
        default=DEFAULT_NAMESPACE,
        pattern=r"^[A-Za-z0-9_.-]{1,40}$",
        description="First part of every key; two namespaces on one server do not see each other",
    )
    command_timeout_s: float = Field(
        default=5.0, gt=0, le=300, description="Longest wait (s) for the answer to a command"
    )
    connect_timeout_s: float = Field(default=2.0, gt=0, le=300, description="Longest wait (s) for a connection")
    wait: bool = Field(
        default=True,
        description="Whether a gateway, scheduler or worker that starts while Redis is away waits for it; else it ends",
    )
    tls_ca_file: Path | None = Field(
        default=None, description="PEM file of the authority that signed the servers; not given: the system's"
    )
    tls_cert_file: Path | None = Field(
        default=None, description="PEM file of a client certificate, where one is asked for"
    )
    tls_key_file: Path | None = Field(default=None, description="PEM file of its key")
    tls_check_hostname: bool = Field(
        default=True, description="Whether a server's certificate has to name the host that was connected to"
    )
    sentinel_username: str | None = Field(default=None, description="User at the Sentinels, where they ask for one")
    sentinel_password: str | None = Field(default=None, description="Password at the Sentinels")

    @field_validator("tls_ca_file", "tls_cert_file", "tls_key_file")
    @classmethod
    def _can_be_read(cls, file: Path | None) -> Path | None:
        if file is not None and not file.is_file():
            raise ValueError(f"there is no file {file}")
        return file
