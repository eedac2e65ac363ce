"""A request that the engine answers with an error: status, text and the field at fault."""

from __future__ import annotations

from typing import Literal

import orjson

_OPENAI_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class Refusal(Exception):
    """Raised while a request is read; becomes the HTTP answer in the wire's own form."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code if code is not None else _OPENAI_CODES.get(status)

    def body(self, wire: Literal["openai", "sagellm"]) -> bytes:
        if wire == "sagellm":
            return orjson.dumps(
                {
                    "error": {
                        "code": _protocol_code(self.status),
                        "message": self.message,
                        "retryable": self.status == 429 or self.status >= 500,
                    }
                }
            )
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": "server_error" if self.status >= 500 else "invalid_request_error",
                    "param": self.param,
                    "code": self.code,
                }
            }
        )


def _protocol_code(status: int) -> str:
    """The value of sagellm_protocol's ErrorCode that fits an HTTP status."""
    if status == 429:
        return "resource_exhausted"
    if status in (408, 504):
        return "deadline_exceeded"
    return "unavailable" if status >= 500 else "invalid_argument"
