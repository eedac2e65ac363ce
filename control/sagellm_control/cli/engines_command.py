"""``engines``: list, drain and remove engines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from .options import REDIS_FLAGS, Loaded, SettingsCommand, takes_settings
from .tables import print_json, print_table, seconds

if TYPE_CHECKING:
    from ..store.awaited import AwaitedEngine
    from ..store.connect import Store
    from ..store.settings import RedisSettings
    from ..store.views import EngineView


@click.group()
def engines() -> None:
    """List, drain and remove engines.

    \b
    Examples:
      sagellm-control engines list
      sagellm-control engines drain vllm-1
      sagellm-control engines list --json | jq '.[] | select(.state == "READY") | .url'
    """


@engines.command("list", cls=SettingsCommand)
@click.option("--model", metavar="NAME", help="Only those of the pool that serves this model.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON list.")
@takes_settings(REDIS_FLAGS)
def list_(loaded: Loaded, model: str | None, as_json: bool) -> None:
    """Show every engine: state, how much of it is in use, and who runs it.

    KV is how many tokens of its KV cache are promised, PACE how many uncached prompt tokens may start on it while
    answers run, SPEED its prompt tokens and the time of a decode step with one answer. LEASE is the time until the
    engine counts as lost if its worker stays silent. NOTE says why an engine is given less than it has slots for, how
    a drain is undone, or that its slots are a guess, as it does not say how many it has: give its worker --slots.
    AWAITED is an engine that its worker has not reached yet, or that has none of the models that it is to have; it has
    no id before that.

    \b
    Examples:
      sagellm-control engines list
      sagellm-control engines list --model my-model
      sagellm-control engines list --json --redis-url redis://queue:6379/0
    """
    views, awaited = asyncio.run(_list(loaded.settings.redis, model))
    if as_json:
        print_json([*views, *awaited])
        return
    print_table(
        ("ENGINE", "MODEL", "STATE", "ACTIVE", "SLOTS", "KV", "PACE", "SPEED", "KIND", "ROLE", "URL", "LEASE", "NOTE"),
        [
            (
                view.engine_id,
                view.pool,
                view.state,
                view.active,
                view.slots,
                f"{view.kv_held:,}/{view.kv_tokens:,}" if view.kv_tokens else "-",
                f"{view.pace_tps:,.0f}/s" if view.pace_tps else "-",
                f"{view.prefill_tps:,.0f}/s, {view.step_ms:.0f} ms",
                f"{view.kind} {view.version}".strip(),
                view.role,
                view.url,
                "-" if view.lease_s is None else seconds(view.lease_s),
                view.reason,
            )
            for view in views
        ]
        + [("-", "-", each.state, *["-"] * 7, each.url, "-", each.reason) for each in awaited],
        empty="No engine has registered. Start a worker: sagellm-control worker --engine URL",
    )


@engines.command(cls=SettingsCommand)
@click.argument("engine_id", metavar="ID")
@click.option("--undo", is_flag=True, help="Give it requests again.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON object.")
@takes_settings(REDIS_FLAGS)
def drain(loaded: Loaded, engine_id: str, undo: bool, as_json: bool) -> None:
    """Give an engine no more requests; what it has is finished.

    It stays drained until --undo, also when it or its worker is started again, unless it had no worker for a day.

    \b
    Examples:
      sagellm-control engines drain vllm-1
      sagellm-control engines drain vllm-1 --undo
    """
    active = asyncio.run(_drain(loaded.settings.redis, engine_id, undo))
    if as_json:
        print_json({"engine_id": engine_id, "draining": not undo, "active": active})
    elif undo:
        click.echo(f"{engine_id} gets requests again; it has {active}.")
    else:
        click.echo(f"{engine_id} gets no more requests; it finishes the {active} that it has.")


@engines.command(cls=SettingsCommand)
@click.argument("engine_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON object.")
@takes_settings(REDIS_FLAGS)
def remove(loaded: Loaded, engine_id: str, as_json: bool) -> None:
    """Forget an engine whose worker has gone, and the models that no other engine has.

    One that a worker still holds has to be drained, and its worker stopped, first.

    \b
    Examples:
      sagellm-control engines remove vllm-1
    """
    asyncio.run(_remove(loaded.settings.redis, engine_id))
    if as_json:
        print_json({"engine_id": engine_id, "removed": True})
    else:
        click.echo(f"{engine_id} is removed.")


async def _list(redis: RedisSettings, model: str | None) -> tuple[list[EngineView], list[AwaitedEngine]]:
    from ..store.awaited import list_awaited
    from ..store.connect import open_store
    from ..store.views import list_engines
    from .named_pools import pool_of

    async with open_store(redis) as store:
        if model:
            return await list_engines(store, await pool_of(store, model)), []
        return await list_engines(store), await list_awaited(store)


async def _drain(redis: RedisSettings, engine_id: str, undo: bool) -> int:
    from ..store.connect import open_store
    from ..store.steps.engines import drain_engine

    async with open_store(redis) as store:
        views = await _rows_of(store, engine_id)
        return sum([await drain_engine(store, view.pool, engine_id, drain=not undo) or 0 for view in views])


async def _remove(redis: RedisSettings, engine_id: str) -> None:
    from ..store.connect import open_store
    from ..store.steps.engines import remove_engine

    async with open_store(redis) as store:
        for view in await _rows_of(store, engine_id):
            match await remove_engine(store, view.pool, engine_id):
                case "held":
                    raise click.ClickException(
                        f"{engine_id} is held by the worker {view.worker}: "
                        "drain the engine, stop its worker, and try again"
                    )
                case "busy":
                    raise click.ClickException(
                        f"{engine_id} still has {view.active} requests: "
                        "they are given back within seconds of its lease's end; try again then"
                    )
                case _:
                    continue


async def _rows_of(store: Store, engine_id: str) -> list[EngineView]:
    """Its rows: one for each pool that it serves."""
    from ..store.views import list_engines

    views = await list_engines(store)
    found = [view for view in views if view.engine_id == engine_id]
    if not found:
        known = ", ".join(dict.fromkeys(view.engine_id for view in views)) or "none has registered"
        raise click.ClickException(f"there is no engine {engine_id!r}; known: {known}")
    return found
