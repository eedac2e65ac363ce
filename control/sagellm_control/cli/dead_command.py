"""``dead``: list, show, retry and drop what was given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from .failures import engines_id
from .options import REDIS_FLAGS, Loaded, SettingsCommand, takes_settings
from .tables import print_json, print_table, seconds

if TYPE_CHECKING:
    from ..store.connect import Store
    from ..store.dead import DeadLetter, Retried
    from ..store.settings import RedisSettings

_MODEL = click.option("--model", metavar="NAME", help="Only of the pool that serves this model.")
_JSON = click.option("--json", "as_json", is_flag=True, help="For machines: JSON.")
_WORDS = click.argument("words", metavar="ENTRY|ID...", nargs=-1)


@click.group()
def dead() -> None:
    """List, show, retry and drop what was given up.

    Each pool keeps the last 10,000 or so: requests whose workers died again and again, with all that is known of
    them, and entries of a stream that nobody could read. A request's ID is in the header X-Request-ID of its
    answer; the one in the answer's body is the engine's.

    \b
    Examples:
      sagellm-control dead list
      sagellm-control dead show 1795343459271-0
      sagellm-control dead retry 9f86d081884c7d659a2feaa0c55ad015
      sagellm-control dead drop --all --model my-model
    """


@dead.command("list", cls=SettingsCommand)
@_MODEL
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many.")
@click.option("--before", metavar="ENTRY", default="+", help="The next page: what is older than this entry.")
@_JSON
@takes_settings(REDIS_FLAGS)
def list_(loaded: Loaded, model: str | None, limit: int, before: str, as_json: bool) -> None:
    """Show what was given up, the newest first.

    \b
    Examples:
      sagellm-control dead list
      sagellm-control dead list --limit 20 --before 1795343459271-0
      sagellm-control dead list --json | jq -r '.[].request_id'
    """
    if before != "+" and not all(part.isdecimal() and int(part) < 2**64 for part in before.split("-", 1)):
        raise click.BadParameter(f"{before!r} is no entry: give one that 'dead list' showed", param_hint="--before")
    letters = asyncio.run(_list(loaded.settings.redis, model, limit, before))
    if as_json:
        print_json(letters)
        return
    print_table(
        ("ENTRY", "REQUEST", "MODEL", "AGE", "DELIVERIES", "FAILURES", "LAPSES", "ENGINES", "REASON"),
        [
            (
                letter.entry,
                letter.request_id,
                letter.pool,
                seconds(letter.age_s),
                letter.deliveries or "",
                letter.failures if letter.can_retry else "",
                letter.lapses if letter.can_retry else "",
                " ".join(letter.engines),
                letter.reason,
            )
            for letter in letters
        ],
        empty="Nothing was given up.",
    )
    if len(letters) == limit:
        click.echo(f"More may be behind: --before {letters[-1].entry}", err=True)


@dead.command(cls=SettingsCommand)
@click.argument("word", metavar="ENTRY|ID")
@_MODEL
@_JSON
@takes_settings(REDIS_FLAGS)
def show(loaded: Loaded, word: str, model: str | None, as_json: bool) -> None:
    """Show one with its history: how often it was tried, where, and what went wrong each time.

    \b
    Examples:
      sagellm-control dead show 1795343459271-0
      sagellm-control dead show 9f86d081884c7d659a2feaa0c55ad015 --json
    """
    (letter,) = asyncio.run(_find(loaded.settings.redis, [word], model))
    if as_json:
        print_json(letter)
        return
    facts = letter.model_dump(mode="json", exclude={"record", "errors", "engines"})
    facts |= {"engines": " ".join(letter.engines)}
    facts |= {f"error {number}": error for number, error in enumerate(letter.errors, 1)}
    facts |= {f"record.{name}": value for name, value in letter.record.items() if name not in (*facts, "errors")}
    print_table(
        ("FIELD", "VALUE"),
        [(name, value) for name, value in facts.items() if value not in (None, "")],
        empty="It is empty.",
    )


@dead.command(cls=SettingsCommand)
@_WORDS
@click.option("--all", "everything", is_flag=True, help="All that can be sent again.")
@_MODEL
@_JSON
@takes_settings(REDIS_FLAGS)
def retry(loaded: Loaded, words: tuple[str, ...], everything: bool, model: str | None, as_json: bool) -> None:
    """Send requests again, each as a new request, and take them out of the list.

    The new request's id is "retry-" and the entry: the old one has ended, and its client was told so. Read the answer
    with GET /v1/requests/ID/result at a gateway, or through the client library, by that id.

    \b
    Examples:
      sagellm-control dead retry 9f86d081884c7d659a2feaa0c55ad015
      sagellm-control dead retry --all --model my-model
    """
    _either(words, everything)
    retried = asyncio.run(_retry(loaded.settings.redis, words, everything, model))
    if as_json:
        print_json({"retried": [{"entry": r.letter.entry, "request_id": r.request_id} for r in retried]})
        return
    for one in retried:
        click.echo(f"{one.letter.request_id} is sent again as {one.request_id}.")
    if not retried:
        click.echo("Nothing was sent again.")


@dead.command(cls=SettingsCommand)
@_WORDS
@click.option("--all", "everything", is_flag=True, help="All of them.")
@_MODEL
@_JSON
@takes_settings(REDIS_FLAGS)
def drop(loaded: Loaded, words: tuple[str, ...], everything: bool, model: str | None, as_json: bool) -> None:
    """Delete entries for good.

    \b
    Examples:
      sagellm-control dead drop 1795343459271-0
      sagellm-control dead drop --all --model my-model
    """
    _either(words, everything)
    dropped = asyncio.run(_drop(loaded.settings.redis, words, everything, model))
    if as_json:
        print_json({"dropped": dropped})
        return
    click.echo(f"{dropped} dropped.")


def _either(words: tuple[str, ...], everything: bool) -> None:
    if everything == bool(words):
        raise click.UsageError("give the entries (or request ids), or --all")


async def _list(redis: RedisSettings, model: str | None, limit: int, before: str) -> list[DeadLetter]:
    from ..store.connect import open_store
    from ..store.dead import list_dead

    async with open_store(redis) as store:
        return await list_dead(store, await _pool(store, model), limit=limit, before=before)


async def _find(redis: RedisSettings, words: tuple[str, ...] | list[str], model: str | None) -> list[DeadLetter]:
    from ..store.connect import open_store

    async with open_store(redis) as store:
        return await _chosen(store, tuple(words), False, model)


async def _retry(redis: RedisSettings, words: tuple[str, ...], everything: bool, model: str | None) -> list[Retried]:
    from ..store.connect import open_store
    from ..store.dead import NotRetried, retry_dead

    async with open_store(redis) as store:
        letters = await _chosen(store, words, everything, model)
        try:
            return [await retry_dead(store, one) for one in letters if one.can_retry or not everything]
        except NotRetried as error:
            raise click.ClickException(str(error)) from None


async def _drop(redis: RedisSettings, words: tuple[str, ...], everything: bool, model: str | None) -> int:
    from ..store.connect import open_store
    from ..store.dead import drop_dead

    async with open_store(redis) as store:
        return await drop_dead(store, await _chosen(store, words, everything, model))


async def _chosen(store: Store, words: tuple[str, ...], everything: bool, model: str | None) -> list[DeadLetter]:
    from ..store.dead import find_dead, list_dead

    pool = await _pool(store, model)
    chosen: list[DeadLetter] = []
    while everything and (page := await list_dead(store, pool, before=chosen[-1].entry if chosen else "+")):
        chosen += page
    for word in words:
        found = await find_dead(store, word, pool)
        if not found:
            why = engines_id(word) or "see 'sagellm-control dead list'"
            raise click.ClickException(f"nothing dead has the id {word!r}: {why}")
        if len(found) > 1:
            entries = ", ".join(f"{letter.entry} ({letter.pool})" for letter in found)
            raise click.ClickException(f"{word!r} is not one entry but {len(found)}: {entries}")
        chosen += found
    return chosen


async def _pool(store: Store, model: str | None) -> str | None:
    from .named_pools import pool_of

    return None if model is None else await pool_of(store, model)
