"""What an answer of status 200 says has gone wrong: an error object, as an event of a stream or as the whole body."""

from __future__ import annotations

from dataclasses import dataclass

from .loose_json import mapping, parsed
from .sagellm_reply import error_of

NOT_OF_THE_REQUEST = frozenset({401, 403, 408, 429})
"""Client-error statuses with which an engine says "not now", or that it does not take its worker's key (a client's
never reaches it): another engine may say yes."""
OF_THE_REQUEST = frozenset({"invalid_request_error", "BadRequestError"})
"""Types of error objects (OpenAI's, vLLM's) that stand for a 400, whose code may be a word or missing."""


@dataclass(frozen=True, slots=True)
class ToldError:
    """One error object."""

    message: str
    refuses: bool
    """It is the request's fault, and any engine would say so; else the engine has failed."""


def refuses(status: int) -> bool:
    """Whether any engine would say this status of the request."""
    return 400 <= status < 500 and status not in NOT_OF_THE_REQUEST


def told_error(data: bytes) -> ToldError | None:
    """The error that the data of an event, or a body, tells of; None: it tells of none."""
    if b'"error"' not in data:
        return None
    try:
        fields = mapping(parsed(data))
    except ValueError:
        return None
    told = error_of(fields) if fields.get("error") else None
    if told is None:
        return None
    # Of sageLLM's, which has been translated, the engine's own words say more.
    status, _ = error_of(mapping(fields.get("sagellm"))) or told
    error = mapping(fields["error"])
    code = str(error.get("code"))
    if code.isdecimal() and len(code) == 3:
        status = int(code)
    elif "sagellm" not in fields and error.get("type") in OF_THE_REQUEST:
        status = 400
    return ToldError(told[1]["error"]["message"], refuses(status))
