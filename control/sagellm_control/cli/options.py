"""Flags made from the models of the settings, so that a setting is described in one place."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import click
from pydantic.fields import FieldInfo

from ..setting_kinds import arms, is_list
from ..settings import Flag, Loaded, env_name, load_settings, sections

REDIS_URL_FROM = "sagellm_control.redis_url_from"
"""In click's ``meta``: the flag, variable or key that named the server, for who has to tell that it is not there."""
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class FlagsOf:
    """Flags for the settings of one section.

    Args:
        section: its name.
        title: heading of the flags in the help text.
        prefix: before each flag's name; the sections that all commands share have one, e.g. ``redis-``.
        only: these fields and no others.
        describe: what a flag means here, where that is not quite the field's own description.
    """

    section: str
    title: str
    prefix: str = ""
    only: tuple[str, ...] | None = None
    describe: Mapping[str, str] = field(default_factory=dict[str, str])

    def options(self) -> Iterator[SettingOption]:
        """One option a field, in the order of the model."""
        for name, info in sections()[self.section].model_fields.items():
            if self.only is None or name in self.only:
                yield SettingOption(self, name, info)


REDIS_FLAGS = FlagsOf("redis", "Redis", prefix="redis-")
LOG_FLAGS = FlagsOf("log", "Log", prefix="log-")


def flag_word(field: str, info: FieldInfo) -> str:
    """Dashes for underscores; a list's flag is repeated, so it is in the singular, unless it is a unit."""
    singular = is_list(info) and not field.endswith("_bytes")
    return (field.removesuffix("s") if singular else field).replace("_", "-")


class SettingOption(click.Option):
    """The flag of one setting. Its value stays text: the model checks it, whatever source it comes from."""

    def __init__(self, group: FlagsOf, field: str, info: FieldInfo) -> None:
        self.title = group.title
        self.section, self.field = group.section, field
        self.flag = flag = f"--{group.prefix}{flag_word(field, info)}"
        name = f"{group.section}__{field}"
        switch = info.annotation is bool
        description = group.describe.get(field) or info.description
        super().__init__(
            [f"{flag}/--no-{flag.removeprefix('--')}" if switch else flag, name],
            type=click.BOOL if switch else click.STRING,
            multiple=is_list(info),
            default=None,
            metavar=None if switch else _metavar(info),
            help=f"{description}  [{'; '.join(_facts(self.section, field, info))}]",
        )


class SettingsCommand(click.Command):
    """A command whose help lists the flags under the titles of their sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                title = parameter.title if isinstance(parameter, SettingOption) else "Options"
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def takes_settings(*groups: FlagsOf) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of some sections and ``--config``; its first argument is what they come to."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = [option for group in groups for option in group.options()]

        @functools.wraps(command)
        def run(config: Path | None, **values: Any) -> None:
            flags: list[Flag] = []
            for option in options:
                value = values.pop(option.name)
                if value is not None and value != ():
                    flags.append(Flag(option.section, option.field, option.flag, _plain(value)))
            loaded = load_settings(flags, config)
            if origin := loaded.origins.get(("redis", "url")):
                click.get_current_context().meta[REDIS_URL_FROM] = origin.name
            command(loaded, **values)

        parameters: list[click.Parameter] = getattr(command, "__click_params__", [])
        # click reads them from the function in reverse, as decorators are applied from the inside out.
        run.__click_params__ = [*reversed([*options, _CONFIG]), *parameters]  # type: ignore[attr-defined]
        return run

    return decorate


_CONFIG = click.Option(
    ["--config"],
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="TOML file with one table a section.  "
    "[default: sagellm-control.toml if it is here; env: SAGELLM_CONTROL_CONFIG]",
)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _metavar(info: FieldInfo) -> str:
    for kind in arms(info):
        if typing.get_origin(kind) is Literal:
            return f"[{'|'.join(map(str, typing.get_args(kind)))}]"
        if isinstance(kind, type) and issubclass(kind, Enum):
            return f"[{'|'.join(str(member.value) for member in kind)}]"
    names = {int: "INTEGER", float: "NUMBER", Path: "PATH"}
    return next((names[kind] for kind in arms(info) if kind in names), "TEXT")


def _facts(section: str, field: str, info: FieldInfo) -> Iterator[str]:
    if is_list(info) and "repeated" not in (info.description or ""):
        yield "may be repeated"
    default = info.get_default(call_default_factory=True)
    if isinstance(default, list | tuple):
        default = ", ".join(map(str, typing.cast(list[object], default)))
    if isinstance(default, bool):
        default = "on" if default else "off"
    if default not in (None, ""):
        yield f"default: {default.value if isinstance(default, Enum) else default}"
    if limits := limits_of(info):
        yield limits
    yield f"env: {env_name(section, field)}"


def limits_of(info: FieldInfo) -> str:
    """The bounds of a number, e.g. ``>=0, <=65535``."""
    found = [
        f"{sign}{_written_out(getattr(bound, key))}"
        for bound in info.metadata
        for key, sign in _SIGNS.items()
        if getattr(bound, key, None) is not None
    ]
    return ", ".join(found)


def _written_out(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


__all__ = [
    "LOG_FLAGS",
    "REDIS_FLAGS",
    "REDIS_URL_FROM",
    "FlagsOf",
    "Loaded",
    "SettingsCommand",
    "limits_of",
    "takes_settings",
]
