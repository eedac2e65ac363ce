"""A Valkey server that lives and dies with the process that starts it."""

from .ports import LOOPBACK, PortInUseError, free_port, require_free
from .valkey import EmbeddedValkey, EmbeddedValkeyError, carried_binary

__all__ = [
    "LOOPBACK",
    "EmbeddedValkey",
    "EmbeddedValkeyError",
    "PortInUseError",
    "carried_binary",
    "free_port",
    "require_free",
]
