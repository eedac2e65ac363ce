"""Whether an engine's URL leads back to the gateway, where each request would be put into the queue again."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from ..embedded.ports import LOOPBACK

_ALL_ADDRESSES = ("0.0.0.0", "::", "")
_LOCALHOST = "localhost"


def leads_to(url: str, host: str, port: int) -> bool:
    """Whether the URL is that of a gateway that listens on this host and port, as far as the names tell."""
    parts = urlsplit(url)
    there = parts.hostname or ""
    if (parts.port or (443 if parts.scheme == "https" else 80)) != port:
        return False
    if host in _ALL_ADDRESSES:
        ours = (_LOCALHOST, "::1", socket.gethostname().lower(), *_ALL_ADDRESSES)
        return there in ours or there.startswith("127.")
    if _LOCALHOST in (there, host):
        return {there, host} <= {_LOCALHOST, LOOPBACK, "::1"}
    return there == host.lower()
