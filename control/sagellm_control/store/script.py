"""Loads the steps' Lua files and runs them by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import ConnectionError, NoScriptError, TimeoutError

from .connect import Store

Argument = str | bytes | int | float

_STEPS = files("sagellm_control.store.steps")
_ALLOW_OOM = "#!lua flags=allow-oom"
_PRELUDE = "\n".join(_STEPS.joinpath(name).read_text(encoding="utf-8") for name in ("prelude.lua", "prelude_queue.lua"))


class Script:
    """One step: the prelude and its own file.

    Every step may be repeated: what it did before, it finds done (and what a lost ``take`` had read is reclaimed). So a
    call whose reply was lost is sent again, once, and a server that has lost its script cache is given the text.

    A server whose memory is full (``maxmemory``) still runs every step, as otherwise nothing that was accepted could
    ever end and make room. Only a step that adds work is refused, by its first write: nothing is half written.
    """

    def __init__(self, name: str, *, adds_work: bool = False) -> None:
        self.name = name
        first_line = "" if adds_work else f"{_ALLOW_OOM}\n"
        self.text = f"{first_line}{_PRELUDE}\n{_STEPS.joinpath(f'{name}.lua').read_text(encoding='utf-8')}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, store: Store, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run it; ``keys`` are all that it touches."""
        try:
            return await self._run(store.commands, keys, arguments)
        except (ConnectionError, TimeoutError):
            return await self._run(store.commands, keys, arguments)

    async def _run(self, client: Any, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *arguments)
