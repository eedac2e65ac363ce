"""TCP ports: find a free one, or say clearly that one is taken."""

from __future__ import annotations

import errno
import socket

LOOPBACK = "127.0.0.1"


class PortInUseError(OSError):
    """Somebody else listens on the port; the message says how to go on."""


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on now. Who binds it later must still be ready to lose the race."""
    with _bound(host, 0) as probe:
        return int(probe.getsockname()[1])


def require_free(host: str, port: int, setting: str) -> None:
    """Bind the port once to see that we can, before anything is started.

    Args:
        setting: where the number came from, e.g. ``--port``; the message names it.

    Raises:
        PortInUseError: somebody listens there, or we may not.
    """
    try:
        _bound(host, port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"is in use; stop the program that listens there, or choose another with {setting}"
        elif error.errno == errno.EACCES:
            reason = f"needs privileges; choose one above 1023 with {setting}"
        else:
            host_setting = setting.replace("port", "host").replace("PORT", "HOST")
            reason = f"cannot be bound ({error.strerror or error}); choose another address with {host_setting}"
        raise PortInUseError(error.errno or 0, f"port {port} on {host} {reason}") from None


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        # As servers do it: connections of an earlier run in TIME_WAIT do not count as in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
    except BaseException:
        probe.close()
        raise
    return probe
