"""A typed view of a request's JSON body: every getter names the field when its value will not do."""

from __future__ import annotations

from typing import cast

import orjson

from .refusal import Refusal


class RequestBody:
    """A JSON object. Fields that nobody asks for are accepted and ignored; null counts as absent."""

    def __init__(self, fields: dict[str, object]) -> None:
        self.fields = fields

    @classmethod
    def parse(cls, raw: bytes) -> RequestBody:
        try:
            value: object = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise Refusal(400, f"the request body is not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise Refusal(400, "the request body must be a JSON object")
        return cls(cast(dict[str, object], value))

    def text(self, name: str) -> str | None:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise Refusal(400, f"{name} must be a string", param=name)
        return value

    def flag(self, name: str) -> bool:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, bool):
            raise Refusal(400, f"{name} must be true or false", param=name)
        return bool(value)

    def integer(self, name: str, *, least: int | None = None, most: int | None = None) -> int | None:
        value = self.fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise Refusal(400, f"{name} must be an integer", param=name)
        if least is not None and value < least:
            raise Refusal(400, f"{name} must be at least {least}, got {value}", param=name)
        if most is not None and value > most:
            raise Refusal(400, f"{name} must be at most {most}, got {value}", param=name)
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        value = self.text(name)
        if value is not None and value not in allowed:
            raise Refusal(400, f"{name} must be one of: {', '.join(allowed)}; got {value!r}", param=name)
        return value

    def table(self, name: str) -> RequestBody | None:
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise Refusal(400, f"{name} must be an object", param=name)
        return RequestBody(cast(dict[str, object], value))

    def objects(self, name: str) -> list[dict[str, object]]:
        """A list of objects that must be there and have at least one."""
        value = self.fields.get(name)
        if value is None:
            raise Refusal(400, f"{name} is missing", param=name)
        if not isinstance(value, list) or not value:
            raise Refusal(400, f"{name} must be a list with at least one object", param=name)
        for index, item in enumerate(cast(list[object], value)):
            if not isinstance(item, dict):
                raise Refusal(400, f"{name}[{index}] must be an object", param=f"{name}[{index}]")
        return cast(list[dict[str, object]], value)
