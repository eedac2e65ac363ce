"""Loads the steps' Lua files and runs them by their hash."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import ConnectionError, NoScriptError, RedisError, ResponseError, TimeoutError

from ..wire.keys import type_of
from .connect import Store

log = logging.getLogger(__name__)

Argument = str | bytes | int | float

_STEPS = files("sagellm_control.store.steps")
_ALLOW_OOM = "#!lua flags=allow-oom"
_PRELUDES = ("prelude.lua", "prelude_queue.lua")
_DEFINED = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
_COMMENT = re.compile(r"--[^\n]*")
_WORD = re.compile(r"\w+")


def _read(name: str) -> str:
    return _STEPS.joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _paragraphs() -> list[tuple[str, list[str], set[str]]]:
    """Those of the preludes: each with what it defines, and the words in it."""
    texts = [text.strip() for name in _PRELUDES for text in _COMMENT.sub("", _read(name)).split("\n\n")]
    return [(text, _DEFINED.findall(text), set(_WORD.findall(text))) for text in texts]


def _used_of_prelude(step: str) -> str:
    """The paragraphs of the preludes that define what a step uses, directly or through each other.

    A server makes anew with each call what stands in front of the step, used or not.
    """
    words, used = set(_WORD.findall(_COMMENT.sub("", step))), list[str]()
    # A definition only uses what stands above it.
    for paragraph, defined, its_words in reversed(_paragraphs()):
        if not words.isdisjoint(defined):
            used.append(paragraph)
            words |= its_words
    return "\n".join(reversed(used))


class Script:
    """One step: what it uses of the preludes, and its own file.

    Every step may be repeated: what it did before, it finds done (and what a lost ``take`` had read is reclaimed). So a
    call whose reply was lost is sent again, once, and a server that has lost its script cache is given the text. (New
    work is not sent again to a server that says nothing: whoever brings it waits, and would only wait longer.)

    A server whose memory is full (``maxmemory``) still runs every step, as otherwise nothing that was accepted could
    ever end and make room. Only a step that adds work is refused, by its first write: nothing is half written.

    A key that somebody has made into another type would stop every step that touches it, and with it whoever is dealt
    with by the same call. It is deleted (what it held is gone already), and the step repeated.
    """

    def __init__(self, name: str, *, adds_work: bool = False) -> None:
        self.name = name
        self._repeated_after = (ConnectionError,) if adds_work else (ConnectionError, TimeoutError)
        first_line = "" if adds_work else f"{_ALLOW_OOM}\n"
        step = _read(f"{name}.lua")
        self.text = f"{first_line}{_used_of_prelude(step)}\n{step}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, store: Store, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run it; ``keys`` are all that it touches."""
        try:
            return await self._run(store.commands, keys, arguments)
        except self._repeated_after:
            return await self._run(store.commands, keys, arguments)
        except ResponseError as error:
            if not is_misplaced(error) or not (removed := await remove_misplaced(store, keys)):
                raise
            for name, kind in removed:
                log.warning("key %r was a %s, which it must not be: it has been deleted", name, kind)
            return await self._run(store.commands, keys, arguments)

    async def _run(self, client: Any, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        try:
            return await client.execute_command("EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *arguments)


_REMOVE_MISPLACED = Script("remove_misplaced")


def is_misplaced(error: RedisError | OSError) -> bool:
    """Whether a command failed as a key has another type than it expects."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


async def remove_misplaced(store: Store, names: Sequence[str]) -> list[tuple[str, str]]:
    """Delete those keys of one pool that have a wrong type.

    Returns:
        The name of each that was deleted, and the type that it had.
    """
    types = {name: kind for name in names if (kind := type_of(name))}
    checked = list(types)
    answer = await _REMOVE_MISPLACED(store, checked, [len(checked), *types.values()]) if checked else []
    return [(checked[number - 1], kind.decode()) for number, kind in zip(answer[::2], answer[1::2], strict=True)]
