"""Settings of the command line itself: what ``up`` starts, and how every process logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class UpSettings(BaseModel):
    """What ``up`` starts on this machine, and how long it waits for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path = Field(
        default=Path(".sagellm-control"),
        description="Folder of the embedded Valkey's append-only file and of the logs; made if missing.",
    )
    schedulers: int = Field(default=2, ge=1, le=64, description="Scheduler processes.")
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Worker processes; the engines are dealt out to them. One takes what one core can carry.",
    )
    valkey_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of the embedded Valkey; 0: that of the last start, else a free one.",
    )
    ready_within_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Longest wait (s) for the gateway to be ready.",
    )
    stop_within_s: float = Field(
        default=40.0,
        gt=0,
        le=3600,
        description="Longest wait (s) for each group of processes to stop.",
    )


class LogSettings(BaseModel):
    """The log of every process, on standard error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is logged."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="text: one line to read; json: one object a line to collect."
    )
