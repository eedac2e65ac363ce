"""The slot of a Redis Cluster that a key, or the key of a command, belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.crc import key_slot

_NO_KEY = frozenset({"INFO", "PING", "PUBLISH", "TIME", "CLUSTER", "CONFIG GET"})
"""Commands for which any node will do. A client for a node (see ``ClusterClient.node_of``) takes every command."""


def slot_of(args: Sequence[Any]) -> int | None:
    """The slot of a command's first key; None: it has no key."""
    name = str(args[0])
    if name in ("EVAL", "EVALSHA"):
        key = args[3] if int(args[2]) else None
    elif name in ("XREAD", "XREADGROUP"):
        # redis-py gives this word as bytes.
        key = args[next(n for n, word in enumerate(args) if word in (b"STREAMS", "STREAMS")) + 1]
    elif name in _NO_KEY:
        key = None
    elif len(args) > 1 and name != "SCAN":
        key = args[1]
    else:
        raise ValueError(f"{name} names no key: run it on a node of its own (see masters)")
    return None if key is None else slot_of_key(key)


def slot_of_key(key: str | bytes) -> int:
    """The slot of a key."""
    # It may contain a name that somebody wrote and that is no UTF-8 (see ``wire.keys.read_name``).
    return key_slot(key.encode(errors="surrogateescape") if isinstance(key, str) else key)
