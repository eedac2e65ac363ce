"""All settings of all processes: one model of sections, filled from flags, environment and a TOML file.

A flag wins over ``SAGELLM_CONTROL_<SECTION>_<FIELD>``, that over the TOML file (one table a section), that
over the default. What is wrong is told in one line each, which names where the value came from.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sagellm_workers.settings import WorkerSettings

from .command_settings import LogSettings, UpSettings
from .gateway.settings import GatewaySettings
from .manager_settings import ManagerSettings
from .scheduler.settings import SchedulerSettings
from .setting_kinds import is_number, read_text
from .simulated_engine.settings import SimulatedEngineSettings
from .store.settings import RedisSettings

ENV_PREFIX = "SAGELLM_CONTROL_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
"""Names the TOML file; it is no setting of a section."""
CONFIG_FILE = Path("sagellm-control.toml")
"""Read from the current folder when no other file is named."""


def _section(model: type[BaseModel]) -> Any:
    return Field(default_factory=lambda: model())


class Settings(BaseSettings):
    """The sections. ``Settings()`` reads environment and TOML file; ``load_settings`` explains errors."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    redis: RedisSettings = _section(RedisSettings)
    gateway: GatewaySettings = _section(GatewaySettings)
    scheduler: SchedulerSettings = _section(SchedulerSettings)
    worker: WorkerSettings = _section(WorkerSettings)
    engine: SimulatedEngineSettings = _section(SimulatedEngineSettings)
    manager: ManagerSettings = _section(ManagerSettings)
    up: UpSettings = _section(UpSettings)
    log: LogSettings = _section(LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = settings_cls.model_config.get("toml_file") or config_file(None)
        return (init_settings, EnvironmentSource(settings_cls), TomlConfigSettingsSource(settings_cls, file))


@dataclass(frozen=True)
class Flag:
    """One flag as it was given on the command line."""

    section: str
    field: str
    name: str
    value: Any


@dataclass(frozen=True)
class Origin:
    """Where a value came from."""

    kind: Literal["flag", "environment", "file"]
    name: str

    def shown(self, value: object) -> str:
        """The name with its value, as one would write it there, but for secrets."""
        value = masked(self.name, value)
        match self.kind:
            case "flag":
                return f"{self.name} {value}"
            case "environment":
                return f"{self.name}={value}"
            case "file":
                return f"{self.name} = {json.dumps(value, default=str)}"


@dataclass(frozen=True)
class Loaded:
    """The effective settings, and where each value that is no default came from."""

    settings: Settings
    origins: Mapping[tuple[str, str], Origin]
    config: Path | None


class SettingsError(Exception):
    """Settings that cannot be used: one line a problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def sections() -> dict[str, type[BaseModel]]:
    """The model of each section, by its name."""
    return {name: typing.cast(type[BaseModel], field.annotation) for name, field in Settings.model_fields.items()}


def env_name(section: str, field: str) -> str:
    """The environment variable of a setting."""
    return f"{ENV_PREFIX}{section}_{field}".upper()


def masked(name: str, value: object) -> object:
    """The value as it may be shown: no password of a URL, and nothing of what is a secret by its name."""
    if re.search(r"(?i)(password|secret|token|api[-_]key)$", name) and value:
        return "***"
    if isinstance(value, list | tuple | set):
        return [masked(name, item) for item in typing.cast(list[object], value)]
    if not isinstance(value, str):
        return value
    # An engine's URL may have been given without its scheme. (Elsewhere "a@b" may be the name of a model.)
    before = r"^" if "://" not in value and name.lower().endswith("engine") else r"://"
    return re.sub(rf"({before})([^:/@\s]*:)?\S*@", r"\1\2***@", value)


def config_file(named: Path | None) -> Path | None:
    """The TOML file to read: the named one, the environment's, or the one in the current folder."""
    if named is not None:
        return named
    if variable := os.environ.get(CONFIG_VARIABLE):
        return Path(variable)
    return CONFIG_FILE if CONFIG_FILE.is_file() else None


class EnvironmentSource(PydanticBaseSettingsSource):
    """Reads ``SAGELLM_CONTROL_<SECTION>_<FIELD>``; an empty one counts as unset (compose files make such)."""

    def __call__(self) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {}
        for section, field, info, text in self._set():
            found.setdefault(section, {})[field] = read_text(info, text)
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Part of pydantic-settings' interface; ``__call__`` gives all fields at once."""
        return self().get(field_name), field_name, False

    def origins(self) -> dict[tuple[str, str], Origin]:
        """The variables that are set and known."""
        return {(s, f): Origin("environment", env_name(s, f)) for s, f, _, _ in self._set()}

    def problems(self) -> Iterator[str]:
        """The variables that look like ours and are not."""
        known = [env_name(section, field) for section, model in sections().items() for field in model.model_fields]
        known.append(CONFIG_VARIABLE)
        for name in sorted(os.environ):
            if name.startswith(ENV_PREFIX) and name not in known:
                yield f"{name} (environment): no such setting{_nearest(name, known, ENV_PREFIX)}"

    def _set(self) -> Iterator[tuple[str, str, FieldInfo, str]]:
        for section, model in sections().items():
            for field, info in model.model_fields.items():
                if text := os.environ.get(env_name(section, field)):
                    yield section, field, info, text


def load_settings(flags: Sequence[Flag] = (), config: Path | None = None) -> Loaded:
    """Read all sources.

    Raises:
        SettingsError: every problem found, not only the first.
    """
    file = config_file(config)
    tables = _tables(file)
    environment = EnvironmentSource(Settings)
    problems = [*_unknown_keys(tables, file), *environment.problems()]
    origins: dict[tuple[str, str], Origin] = {
        (section, key): Origin("file", f"{file}: {section}.{key}") for section, table in tables.items() for key in table
    }
    origins |= environment.origins()
    given: dict[str, dict[str, Any]] = {}
    for flag in flags:
        given.setdefault(flag.section, {})[flag.field] = flag.value
        origins[flag.section, flag.field] = Origin("flag", flag.name)
    problems += _truths(tables, origins)

    class Here(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        settings = Here(**typing.cast(dict[str, Any], given))
    except ValidationError as error:
        problems += _explain(error, origins)
    else:
        if not problems:
            return Loaded(settings, origins, file)
    raise SettingsError(problems)


def _tables(file: Path | None) -> dict[str, dict[str, Any]]:
    if file is None:
        return {}
    try:
        with file.open("rb") as text:
            tables = tomllib.load(text)
    except OSError as error:
        raise SettingsError([f"{file}: cannot be read: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{file}: is no valid TOML: {error}"]) from None
    if loose := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise SettingsError([f"{file}: {name}{_stray(name)}" for name in loose])
    return tables


def _stray(name: str) -> str:
    known = sections()
    if name in known:
        return f" must be a table: [{name}]"
    if owners := [section for section, model in known.items() if name in model.model_fields]:
        tables = " or ".join(f"[{section}]" for section in owners)
        return f" stands in no table; did you mean {name} in {tables}?"
    return f" stands in no table, and is no section{_nearest(name, list(known))}"


def _unknown_keys(tables: dict[str, dict[str, Any]], file: Path | None) -> Iterator[str]:
    known = sections()
    for section, table in tables.items():
        if section not in known:
            yield f"{file}: [{section}]: no such section{_nearest(section, list(known))}"
        else:
            fields = list(known[section].model_fields)
            for key in table:
                if key not in fields:
                    yield f"{file}: {section}.{key}: no such setting{_nearest(key, fields)}"


def _truths(tables: dict[str, dict[str, Any]], origins: Mapping[tuple[str, str], Origin]) -> Iterator[str]:
    """What the file has true or false where a number is wanted: pydantic would take it for 1 or 0."""
    for section, model in sections().items():
        for key, value in tables.get(section, {}).items():
            origin, field = origins[section, key], model.model_fields.get(key)
            if isinstance(value, bool) and origin.kind == "file" and field is not None and is_number(field):
                yield f"{origin.shown(value)}: input should be a number"


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    """``prefix``: of all names; it makes none of them alike."""
    short = [each.removeprefix(prefix) for each in known]
    matches = difflib.get_close_matches(name.removeprefix(prefix), short, n=1)
    return f"; did you mean {prefix}{matches[0]}?" if matches else "; `sagellm-control settings` shows all of them"


def _explain(error: ValidationError, origins: Mapping[tuple[str, str], Origin]) -> list[str]:
    found: dict[str, list[str]] = {}
    for problem in error.errors():
        if problem["type"] == "extra_forbidden":
            continue  # told by _unknown_keys, with the nearest name
        if isinstance(problem["input"], bool) and "_than" in problem["type"]:
            continue  # told by _truths
        place = [str(part) for part in problem["loc"]]
        origin = origins.get((place[0], place[1])) if len(place) > 1 else None
        name = origin.shown(problem["input"]) if origin else ".".join(place[:2])
        reason = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "list_type" and isinstance(problem["input"], str):
            reason += f": {json.dumps([masked(name, problem['input'])])}"
        found.setdefault(name, []).append(reason[:1].lower() + reason[1:])
    return [f"{name}: {' or '.join(dict.fromkeys(reasons))}" for name, reasons in found.items()]
