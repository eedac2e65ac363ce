"""``policy``: which order and placement the pools follow, and how to change them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from .options import REDIS_FLAGS, Loaded, SettingsCommand, takes_settings
from .tables import print_json, print_table

if TYPE_CHECKING:
    from ..store.connect import Store
    from ..store.settings import RedisSettings


@click.group()
def policy() -> None:
    """Show or change who is next, and on which engine.

    All schedulers of a pool follow within a second, and what waits is ranked anew.

    \b
    Examples:
      sagellm-control policy show
      sagellm-control policy set slo_aware
      sagellm-control policy set fair --placement prefix_affinity --model my-model
    """


@policy.command(cls=SettingsCommand)
@click.option("--model", metavar="NAME", help="Only the pool that serves this model.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON object.")
@takes_settings(REDIS_FLAGS)
def show(loaded: Loaded, model: str | None, as_json: bool) -> None:
    """Show what each pool follows, and what of it is not the default.

    \b
    Examples:
      sagellm-control policy show
      sagellm-control policy show --json
    """
    found = asyncio.run(_show(loaded.settings.redis, model))
    if as_json:
        print_json(dict[str, object](found))
        return
    print_table(
        ("MODEL", "POLICY", "PLACEMENT", "SET", "NOTE"),
        [
            (
                pool,
                facts["policy"],
                facts["placement"],
                ", ".join(f"{k}={v}" for k, v in facts["set"].items() if k not in ("policy", "placement")),
                facts["note"],
            )
            for pool, facts in found.items()
        ],
        empty="No engine has registered. Start a worker: sagellm-control worker --engine URL",
    )


@policy.command("set", cls=SettingsCommand)
@click.argument("name", metavar="[POLICY]", required=False)
@click.option("--placement", metavar="NAME", help="On which engine.")
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help="Any other setting; no value: its default.")
@click.option("--model", metavar="NAME", help="Only the pool that serves this model; else all that there are now.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON object.")
@takes_settings(REDIS_FLAGS)
def set_(
    loaded: Loaded, name: str | None, placement: str | None, others: tuple[str, ...], model: str | None, as_json: bool
) -> None:
    """Change what pools follow.

    It is recorded in each pool: one whose first engine comes later does not follow it.

    \b
    Examples:
      sagellm-control policy set slo_aware
      sagellm-control policy set fair --placement prefix_affinity --model my-model
      sagellm-control policy set --set tpot_slo_ms=60 --set aging_s=30
    """
    from ..scheduler.order import ORDERS
    from ..scheduler.pool_policy import check_settings

    wanted = {key: value for key, value in (("policy", name), ("placement", placement)) if value}
    for other in others:
        setting, equals, value = other.partition("=")
        if not equals:
            raise click.UsageError(f"--set {other}: give NAME=VALUE, e.g. aging_s=30")
        wanted[setting.strip()] = value.strip()
    if not wanted:
        raise click.UsageError(f"name a policy ({', '.join(ORDERS)}), a --placement or a --set NAME=VALUE")
    try:
        check_settings(wanted)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    pools = asyncio.run(_set(loaded.settings.redis, model, wanted))
    if as_json:
        print_json({"pools": pools, "settings": wanted})
        return
    for pool in pools:
        click.echo(f"{pool} follows {', '.join(f'{key}={value}' for key, value in wanted.items())}.")


async def _show(redis: RedisSettings, model: str | None) -> dict[str, dict[str, Any]]:
    from ..scheduler.policy_settings import DEFAULTS, read_policy_settings
    from ..store.connect import open_store
    from ..store.inspect import texts

    found: dict[str, dict[str, Any]] = {}
    async with open_store(redis) as store:
        for pool in await _pools(store, model):
            recorded = texts(await store.commands.hgetall(store.keys.pool(pool).settings))
            note = recorded.get("adapted_why", "") if recorded.get("policy") == "adaptive" else ""
            try:
                settings = read_policy_settings(recorded)
            except ValueError as error:
                settings, note = DEFAULTS, str(error)
            found[pool] = {
                "policy": settings.policy,
                "placement": settings.placement,
                "set": settings.fields(),
                "note": note,
            }
    return found


async def _set(redis: RedisSettings, model: str | None, wanted: dict[str, str]) -> list[str]:
    from ..scheduler.pool_policy import record_settings
    from ..store.connect import open_store

    async with open_store(redis) as store:
        pools = await _pools(store, model)
        if not pools:
            raise click.ClickException("no engine has registered, so there is no pool whose policy could be set")
        for pool in pools:
            await record_settings(store, pool, wanted)
        return pools


async def _pools(store: Store, model: str | None) -> list[str]:
    from ..store.inspect import list_pools
    from .named_pools import pool_of

    return await list_pools(store) if model is None else [await pool_of(store, model)]
