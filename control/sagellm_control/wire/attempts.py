"""The numbers of a request's attempts: 1, 2, … for each engine that it is assigned to."""

from __future__ import annotations

import hashlib
import re

from .request import MAX_ID_LENGTH

ATTEMPTS_APART = 1000
"""A request whose record was lost is submitted again, and counts its attempts from here on, from twice here the next
time: an attempt of before, which may still run somewhere, is none of the current ones and is refused."""

_ENDS_AS_LATER = re.compile(r"~[0-9]+\Z")


def was_tried(attempt: int) -> bool:
    """Whether an engine has had the request that has come to this attempt. (Also in ``steps/prelude.lua``.)"""
    return attempt % ATTEMPTS_APART > 0


def id_of_attempt(request_id: str, attempt: int) -> str:
    """The id under which an engine gets this attempt: the request's own for the first, later ``ID~2``, ``ID~3`` …

    An engine may still run an attempt of before, or know its id, and take no id twice. So no two attempts have one, of
    whatever requests: one whose own id ends like that of a later attempt has ``ID~2~1`` from the first on. It is no
    longer than ids may be: of one that is too long the rest is told by its hash.
    """
    if attempt <= 1 and not ("~" in request_id and _ENDS_AS_LATER.search(request_id)):
        return request_id
    suffix = f"~{attempt}"
    if len(request_id) + len(suffix) > MAX_ID_LENGTH:
        told = hashlib.blake2b(request_id.encode(errors="surrogatepass"), digest_size=4)
        suffix = f"~{told.hexdigest()}{suffix}"
        request_id = request_id[: MAX_ID_LENGTH - len(suffix)]
    return request_id + suffix
