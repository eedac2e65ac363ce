"""What the URL of an engine may be: settings look before anything starts, adapters before they ask."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit


def engine_root(url: str) -> str:
    """`url` without a trailing slash or "/v1".

    Raises:
        ValueError: no engine can be asked there; the text repeats no user and no password.
    """
    if problem := _problem(url):
        raise ValueError(f"{_shown(url)!r} is no URL of an engine: {problem}")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _problem(url: str) -> str:
    """What is wrong with it; empty: nothing."""
    import httpx  # it takes long to load, and most commands have no engine to look at

    if not url.startswith(("http://", "https://")):
        return "it must begin with http:// or https://"
    parts = _split(url)
    if parts is None or not parts.hostname:
        return "it needs a host, and a port from 1 to 65535 if any"
    if "@" in parts.netloc:
        return "no user or password may stand in it; give an api_key"
    if any(mark in url for mark in " ?#"):
        return "a path such as /v1 may follow host and port, but no blank, ? or #"
    try:
        httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        return str(error)
    return ""


def _split(url: str) -> SplitResult | None:
    """Its parts; None: its host or port cannot be read, or the port is none."""
    try:
        parts = urlsplit(url)
        return None if parts.port == 0 else parts
    except ValueError:
        return None


def _shown(url: str) -> str:
    """As it may be shown: without anything that could be of a user and password, however it is written."""
    return re.sub(r"^((?:[^:/@]*://)?).*@", r"\1***@", url, flags=re.DOTALL)
