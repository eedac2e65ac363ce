"""TCP ports: find a free one, or say clearly that one is taken."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST = 10_000
_FOR_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 100
_REUSES = [getattr(socket, name) for name in ("SO_REUSEADDR", "SO_REUSEPORT") if hasattr(socket, name)]


class PortInUseError(OSError):
    """Somebody else listens on the port; the message says how to go on."""


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on now, kept for a minute for the server that is to listen on it.

    It lies below those that the system gives to outgoing connections and to servers that take any port, so that a
    server finds its port free when it is started again as well. (A client that tries to reach a server that is gone
    could be given that very port as its own: it is then connected to itself.)
    """
    above = _first_for_outgoing()
    for _ in range(_TRIES if above > _LOWEST else 0):
        port = random.randrange(_LOWEST, above)
        try:
            return _keep_for_a_minute(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _keep_for_a_minute(host, 0)


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


def _first_for_outgoing() -> int:
    try:
        return int(_FOR_OUTGOING.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768  # Linux's own choice, and below that of macOS and the BSDs


def _keep_for_a_minute(host: str, port: int) -> int:
    """Leave a closed connection behind, in TIME_WAIT: it is in the way of everybody but a server that reuses an address
    (asyncio's, Valkey, uvicorn) or a port (llama.cpp's).

    We do not when we look for a port, nor does the system when it chooses one.
    """
    with _bound(host, port, reuse=False) as listener:
        listener.listen(1)
        for option in _REUSES:
            listener.setsockopt(socket.SOL_SOCKET, option, 1)  # what it leaves behind has it too
        address = listener.getsockname()
        with socket.socket(listener.family, socket.SOCK_STREAM) as client:
            client.connect(address)
            listener.accept()[0].close()  # who closes first keeps the port in TIME_WAIT
        return int(address[1])


def _bound(host: str, port: int, *, reuse: bool = True) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        # As servers do it: connections of an earlier run in TIME_WAIT do not count as in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        probe.bind((host, port))
    except BaseException:
        probe.close()
        raise
    return probe
