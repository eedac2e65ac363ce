"""API keys: who a caller is, how urgent its requests may be, and its weight among tenants.

The file holds hashes only:

    [[keys]]
    sha256 = "9f86d081…"        # of the key's text
    tenant = "search"
    max_priority = "HIGH"       # the most urgent class that it may ask for; default CRITICAL
    weight = 2.0                # its share among tenants under the order fair, from 0.0001 to 1000; default 1
    admin = true                # may use /admin/…; default false
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import tomllib
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..wire.priority import RequestPriority
from ..wire.request import LEAST_WEIGHT, MOST_WEIGHT
from .request_body import LONGEST_TENANT


class ApiKeysUnreadable(Exception):
    """The file of keys cannot be used; the text says why."""


class Caller(BaseModel):
    """Who holds a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: str = Field(min_length=1, max_length=LONGEST_TENANT)
    max_priority: RequestPriority = RequestPriority.CRITICAL
    weight: float = Field(default=1.0, ge=LEAST_WEIGHT, le=MOST_WEIGHT)
    admin: bool = False
    """May change the policy of pools."""

    @field_validator("max_priority", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return RequestPriority.parse(value) if isinstance(value, str) else value


class ApiKeys:
    """The keys of one file."""

    def __init__(self, callers: list[Caller]) -> None:
        self._callers = callers

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Read the file.

        Raises:
            ApiKeysUnreadable: it is missing, no TOML, or an entry of it is wrong.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ApiKeysUnreadable(f"--api-keys {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ApiKeysUnreadable(f"--api-keys {path}: it is no TOML file: {error}") from error
        entries = content.get("keys", [])
        if not isinstance(entries, list) or not entries:
            raise ApiKeysUnreadable(f"--api-keys {path}: it holds no [[keys]] entry")
        callers: list[Caller] = []
        number_of: dict[str, int] = {}
        for number, entry in enumerate(cast(list[object], entries), 1):
            where = f"--api-keys {path}: [[keys]] entry {number}"
            try:
                caller = Caller.model_validate(entry)
            except ValidationError as error:
                raise ApiKeysUnreadable(f"{where}: {_reason(error)}") from None  # it would show what was in the file
            if (first := number_of.setdefault(caller.sha256, number)) != number:
                raise ApiKeysUnreadable(f"{where}: its key is that of entry {first}")
            callers.append(caller)
        return cls(callers)

    def find(self, key: str) -> Caller | None:
        """Whose key it is. Every entry is compared, each in constant time, so that time tells nothing."""
        digest = hash_key(key)
        found: Caller | None = None
        for caller in self._callers:
            if hmac.compare_digest(caller.sha256, digest):
                found = caller
        return found


def _reason(error: ValidationError) -> str:
    """What is wrong with an entry, without its values: one may be a key in clear text."""
    problem = error.errors()[0]
    name = ".".join(map(str, problem["loc"]))
    match problem["type"]:
        case "missing":
            return f"{name} is missing"
        case "extra_forbidden":
            return f"there is no {name!r}; there are {', '.join(Caller.model_fields)}"
        case "model_type":
            return "it must be a table"
        case "string_pattern_mismatch":
            return f"{name} must be 64 of 0-9 and a-f: a key's hash, as `sagellm-control api-key` prints it"
        case _:
            reason = problem["msg"].removeprefix("Value error, ")
            return f"{name}: {reason[:1].lower()}{reason[1:]}"


def hash_key(key: str) -> str:
    """The form in which a key is kept. Keys are long and random, so a plain hash is enough.

    What a header holds need not be UTF-8: it is hashed as the bytes that were sent.
    """
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def new_key() -> str:
    """A new key: 256 random bits."""
    return f"sk-{secrets.token_urlsafe(32)}"
