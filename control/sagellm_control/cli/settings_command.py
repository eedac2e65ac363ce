"""``settings``: every setting, its value, and where the value comes from."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

import click
from pydantic.fields import FieldInfo

from ..settings import Loaded, env_name, masked, sections
from .options import SettingsCommand, limits_of, takes_settings


@click.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object.")
@takes_settings()
def settings(loaded: Loaded, as_json: bool) -> None:
    """Show all settings: value, where it comes from, and what it means.

    A flag wins over the environment, that over the TOML file, that over the default. Secrets are not shown.
    What is printed is a TOML file: defaults are commented out. Write it under another name than the file that is
    read (sagellm-control.toml where there is one, or --config): the shell empties a file before we can read it.

    \b
    Examples:
      sagellm-control settings
      SAGELLM_CONTROL_GATEWAY_PORT=9000 sagellm-control settings --json
      sagellm-control settings > all-settings.toml
    """
    if as_json:
        click.echo(json.dumps({name: dict(_values(loaded, name)) for name in sections()}, indent=2, default=str))
        return
    click.echo(f"# TOML file: {loaded.config or 'none'}")
    for section, model in sections().items():
        click.echo(f"\n[{section}]  # {model.__doc__.splitlines()[0] if model.__doc__ else section}")
        for field, facts in _values(loaded, section):
            limits = limits_of(model.model_fields[field])
            click.echo(f"\n# {facts['description']}" + (f" ({limits})" if limits else ""))
            click.echo(f"# {env_name(section, field)}; from: {facts['source']}")
            click.echo(_toml_line(field, facts["value"], chosen=(section, field) in loaded.origins))


def _values(loaded: Loaded, section: str) -> Iterator[tuple[str, dict[str, Any]]]:
    chosen = getattr(loaded.settings, section)
    fields: dict[str, FieldInfo] = type(chosen).model_fields
    plain: dict[str, Any] = chosen.model_dump(mode="json")
    for field, info in fields.items():
        origin = loaded.origins.get((section, field))
        yield (
            field,
            {
                "value": masked(field, plain[field]),
                "source": f"{origin.kind} ({origin.name})" if origin else "default",
                "description": info.description,
            },
        )


def _toml_line(field: str, shown: Any, *, chosen: bool) -> str:
    if shown is None:
        return f"# {field} is not set"
    # A default that stood in a file would count as chosen: ``up`` would look for that Redis and start none.
    silent = "" if chosen and "***" not in str(shown) else "# "
    return f"{silent}{field} = {_toml(shown)}"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        items = typing.cast(dict[str, Any], value).items()
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in items) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, typing.cast(list[Any], value)))}]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are the same in both
