"""What went wrong, as the one clear line that a person at a terminal wants, and no traceback."""

from __future__ import annotations

import errno
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from ..settings import SettingsError
from .options import REDIS_URL_FROM

_OF_THE_MACHINE = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL, errno.ENOSPC, errno.EIO)
"""Addresses that are not to be had; files that take nothing: the disk is full or failing, or the terminal has gone."""


class Problems(click.ClickException):
    """Several lines, each a problem of its own."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self._lines = list(lines)

    def show(self, file: Any = None) -> None:
        for line in self._lines:
            click.echo(f"Error: {line}", file=file, err=file is None)


class BadSettings(Problems):
    """Settings that cannot be used: a mistake in how the command was called."""

    exit_code = 2


def engines_id(word: str) -> str:
    """Why nothing has this id, where it is one that an engine gave to its answer; else empty."""
    if not word.startswith(("chatcmpl-", "cmpl-")):
        return ""
    return "this is the engine's id; the request's is in the header X-Request-ID of its answer"


@contextmanager
def clear_lines() -> Generator[None]:
    """Turn the errors that a user can do something about into their message and an exit code.

    2: the settings cannot be used; 1: anything else. An error that is ours keeps its traceback.
    """
    try:
        yield
    except SettingsError as error:
        raise BadSettings(error.problems) from None
    except ExceptionGroup as group:
        # A TaskGroup wraps even a single error.
        known = [line for line in map(_line, _leaves(group)) if line is not None]
        if len(known) < len(_leaves(group)):
            raise
        raise Problems(list(dict.fromkeys(known))) from None
    except Exception as error:
        line = _line(error)
        if line is None:
            raise
        raise Problems([line]) from None


def _line(error: BaseException) -> str | None:
    from redis.exceptions import RedisError

    from sagellm_workers.process import WorkerMisconfigured

    from ..client import QueueError
    from ..embedded import EmbeddedValkeyError, PortInUseError
    from ..gateway.api_keys import ApiKeysUnreadable
    from ..store.connect import StoreUnreachable, StoreUnusable
    from .system import UpError

    ours = (
        *(QueueError, ApiKeysUnreadable, WorkerMisconfigured),
        *(EmbeddedValkeyError, UpError),
    )
    if isinstance(error, StoreUnreachable | StoreUnusable):
        context = click.get_current_context(silent=True)
        origin = context.meta.get(REDIS_URL_FROM) if context else None
        return f"{error} (the URL is from {origin})" if origin else str(error)
    if isinstance(error, RedisError):
        return f"Redis: {error}"
    if isinstance(error, ours):
        return str(error)
    if isinstance(error, PortInUseError):
        return error.strerror
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
    return None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
