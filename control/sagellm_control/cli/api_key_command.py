"""``api-key``: a new key for a tenant, and its entry for the gateway's file of keys."""

from __future__ import annotations

import json

import click

from ..wire.priority import RequestPriority
from ..wire.request import LEAST_WEIGHT, MOST_WEIGHT
from .flag_types import Number


@click.command("api-key")
@click.option("--tenant", metavar="NAME", required=True, help="Who uses it; requests are counted on its account.")
@click.option(
    "--max-priority",
    type=click.Choice(list(RequestPriority.__members__), case_sensitive=False),
    default="CRITICAL",
    show_default=True,
    help="The most urgent class that its requests may ask for.",
)
@click.option(
    "--weight",
    type=Number(min=LEAST_WEIGHT, max=MOST_WEIGHT),
    default=1.0,
    show_default=True,
    help="The tenant's share among tenants under the order fair ('policy set fair'); the default order has no shares.",
)
@click.option("--admin", is_flag=True, help="It may also use /admin, which changes the policy of pools.")
def api_key(tenant: str, max_priority: str, weight: float, admin: bool) -> None:
    """Make a new API key for a tenant.

    The entry for the gateway's file of keys goes to standard output; it holds a hash only. The key itself goes
    to standard error: it is shown this once.

    \b
    Examples:
      sagellm-control api-key --tenant search --max-priority HIGH >> keys.toml
      sagellm-control gateway --api-keys keys.toml
    """
    from ..gateway.api_keys import hash_key, new_key
    from ..gateway.request_body import LONGEST_TENANT

    if not 1 <= len(tenant) <= LONGEST_TENANT:
        raise click.BadParameter(f"it must have 1 to {LONGEST_TENANT} characters", param_hint="--tenant")
    key = new_key()
    click.echo(f"The key, shown this once: {key}", err=True)
    click.echo(f'[[keys]]\nsha256 = "{hash_key(key)}"\ntenant = {json.dumps(tenant, ensure_ascii=False)}')
    click.echo(f'max_priority = "{max_priority.upper()}"\nweight = {weight}')
    click.echo("admin = true\n" if admin else "")
