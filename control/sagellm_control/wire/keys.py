"""Every key and channel name. No other module writes one.

All keys of a pool share the hash tag ``{pool}``, so that one script may touch them all on Redis Cluster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from urllib.parse import unquote

from .priority import RequestPriority

DEFAULT_NAMESPACE = "sagellm"

SCHEDULER_GROUP = "schedulers"
"""Consumer group of the intake streams and of the freed stream."""
WORKER_GROUP = "workers"
"""Consumer group of an engine's assigned stream."""

_TYPES = {
    **dict.fromkeys(("freed", "placements", "dead"), "stream"),
    **dict.fromkeys(("waiting", "room", "leases", "expiries", "tenants", "orphans"), "zset"),
    **dict.fromkeys(("engines", "misranked"), "set"),
    **dict.fromkeys(("registrations", "settings", "reranking", "backlog", "lengths", "counters", "retries"), "hash"),
    "cards": "hash",
    **dict.fromkeys(("virtual_time", "woken", "holding"), "string"),
}
"""Of the keys that a pool has one of, by their last part."""

_RESERVED = {ord(c): f"%{ord(c):02X}" for c in "%{}"} | {c: f"%{c:02X}" for c in range(0x21)}


def read_name(raw: bytes) -> str:
    """A member of a set as a text that can be sent back as it came, even if it is no UTF-8."""
    return raw.decode(errors="surrogateescape")


def escaped(name: str) -> str:
    """The name as a pattern of ``SCAN`` that only it matches."""
    return re.sub(r"([\[\]?*\\])", r"\\\1", name)


def quote_pool(model: str) -> str:
    """The model's name with what would break a hash tag or a terminal percent-encoded."""
    return model.translate(_RESERVED)


def type_of(key: str) -> str | None:
    """The type that a key of a pool has, as ``TYPE`` names it; None for any other name."""
    kind, _, rest = key.partition("}:")[2].partition(":")
    match kind:
        case "intake":
            return "stream"
        case "request":
            return {"body": "string", "output": "stream"}.get(rest.partition(":")[2], "hash")
        case "engine":  # its id may hold colons
            return "stream" if rest.endswith(":assigned") else "hash"
        case _:
            return _TYPES.get(kind)


@dataclass(frozen=True)
class Keys:
    """Names under one namespace; two namespaces on one server do not see each other."""

    namespace: str = DEFAULT_NAMESPACE

    def pools(self) -> str:
        """Set: the names of all pools."""
        return f"{self.namespace}:pools"

    def models(self) -> str:
        """Hash: name that a client may ask for -> pool that serves it."""
        return f"{self.namespace}:models"

    def wake(self) -> str:
        """Stream: pools that hold requests and have no READY engine, for whoever starts engines."""
        return f"{self.namespace}:wake"

    def gateways(self) -> str:
        """Sorted set: the inbox of each gateway under the time (ms) until which it is taken to be alive."""
        return f"{self.namespace}:gateways"

    def awaited(self) -> str:
        """Hash with a TTL: URL of an engine that has not answered yet -> who looks for it, and why in vain."""
        return f"{self.namespace}:awaited"

    def inbox(self, gateway: str) -> str:
        """Channel: output for the clients of one gateway process."""
        return f"{self.namespace}:inbox:{gateway}"

    def holder(self, holder: str) -> str:
        """String with a TTL: a process that holds reservations, and lives."""
        return f"{self.namespace}:holder:{holder}"

    def pool(self, pool: str) -> PoolKeys:
        """The keys of one pool."""
        return _pool_keys(self.namespace, pool)


@dataclass(frozen=True)
class PoolKeys:
    """The keys of one pool, i.e. of the engines that serve one model."""

    namespace: str
    pool: str

    @cached_property
    def prefix(self) -> str:
        return f"{self.namespace}:{{{quote_pool(self.pool)}}}"

    @cached_property
    def own(self) -> tuple[str, ...]:
        """All but those of its engines and of its requests."""
        return (*self.intake, *(f"{self.prefix}:{name}" for name in _TYPES))

    @cached_property
    def intake(self) -> tuple[str, ...]:
        """Streams: accepted and not yet ranked, one a priority, most urgent first."""
        return tuple(f"{self.prefix}:intake:{p.label}" for p in RequestPriority)

    @cached_property
    def waiting(self) -> str:
        """Sorted set: request id under its rank; the lowest goes first."""
        return f"{self.prefix}:waiting"

    @cached_property
    def freed(self) -> str:
        """Stream: room that came free while requests waited."""
        return f"{self.prefix}:freed"

    @cached_property
    def room(self) -> str:
        """Sorted set: each READY engine under its free places; below 0: minus the time (ms) until which its pace keeps
        it closed. Derived from the reservations."""
        return f"{self.prefix}:room"

    @cached_property
    def engines(self) -> str:
        """Set: the ids of all engines that have a row."""
        return f"{self.prefix}:engines"

    @cached_property
    def leases(self) -> str:
        """Sorted set: engine id under the time (ms) at which its worker's lease lapses."""
        return f"{self.prefix}:leases"

    @cached_property
    def registrations(self) -> str:
        """Hash: engine id -> what a program registered it with (see ``wire.registration``)."""
        return f"{self.prefix}:registrations"

    @cached_property
    def cards(self) -> str:
        """Hash: model -> what an engine says of it (see ``wire.engine``), and behind a line break that engine's id."""
        return f"{self.prefix}:cards"

    @cached_property
    def settings(self) -> str:
        """Hash: what all schedulers of the pool follow: policy, placement and their parameters, and the epoch of the
        ranks."""
        return f"{self.prefix}:settings"

    @cached_property
    def reranking(self) -> str:
        """Hash: how far what waits has been ranked anew after a change of policy."""
        return f"{self.prefix}:reranking"

    @cached_property
    def misranked(self) -> str:
        """Set: requests that went back to the waiting set under a rank of an earlier policy."""
        return f"{self.prefix}:misranked"

    @cached_property
    def backlog(self) -> str:
        """Hash: requests and bytes that no engine has yet, by class and by tenant."""
        return f"{self.prefix}:backlog"

    @cached_property
    def expiries(self) -> str:
        """Sorted set: request id under the time (ms) until which it may wait for an engine: as its class may, or until
        it would be late, if it is to be refused then."""
        return f"{self.prefix}:expiries"

    @cached_property
    def virtual_time(self) -> str:
        """String: the virtual time (ms) of fair queueing."""
        return f"{self.prefix}:virtual_time"

    @cached_property
    def tenants(self) -> str:
        """Sorted set: flow (a tenant, or a class as ``class:0``) under the virtual time (ms) at which its next request
        starts. It may go when nothing of it waits and the pool's virtual time has passed that by the credit."""
        return f"{self.prefix}:tenants"

    @cached_property
    def placements(self) -> str:
        """Stream: which engine was given which prefixes, for placements that want to know."""
        return f"{self.prefix}:placements"

    @cached_property
    def lengths(self) -> str:
        """Hash: how long answers became, by model, tenant and the max_tokens asked for."""
        return f"{self.prefix}:lengths"

    @cached_property
    def counters(self) -> str:
        """Hash: how many were accepted, and how many ended in which way."""
        return f"{self.prefix}:counters"

    @cached_property
    def woken(self) -> str:
        """String: there while a wake-up for the pool is fresh, so that a thousand held requests send one."""
        return f"{self.prefix}:woken"

    @cached_property
    def holding(self) -> str:
        """String with a TTL: gateways hold requests for the pool when it has no engine, so it is not forgotten."""
        return f"{self.prefix}:holding"

    @cached_property
    def retries(self) -> str:
        """Hash: what the retry budget knows of the last seconds."""
        return f"{self.prefix}:retries"

    @cached_property
    def orphans(self) -> str:
        """Sorted set: requests that nobody listens to, under the time (ms) at which each is cancelled."""
        return f"{self.prefix}:orphans"

    @cached_property
    def dead(self) -> str:
        """Stream: entries that could not be read and requests given up, with the reason and the history."""
        return f"{self.prefix}:dead"

    def record(self, request_id: str) -> str:
        """Hash: a request's record."""
        return f"{self.prefix}:request:{request_id}"

    def body(self, request_id: str) -> str:
        """String: the client's body, until the request ends."""
        return f"{self.prefix}:request:{request_id}:body"

    def output(self, request_id: str) -> str:
        """Stream: the output log; entry ids are ``<attempt>-<sequence>``."""
        return f"{self.prefix}:request:{request_id}:output"

    def engine(self, engine_id: str) -> str:
        """Hash: an engine's row."""
        return f"{self.prefix}:engine:{engine_id}"

    def reservations(self, engine_id: str) -> str:
        """Hash: the requests that hold a place on the engine, and the KV tokens of each."""
        return f"{self.prefix}:engine:{engine_id}:reservations"

    def assigned(self, engine_id: str) -> str:
        """Stream: what the engine's worker is to run or to cancel."""
        return f"{self.prefix}:engine:{engine_id}:assigned"


def pool_of_intake(keys: Keys, key: str) -> str | None:
    """The pool whose intake stream has this name; None: it is no such name."""
    pool = unquote(key.removeprefix(f"{keys.namespace}:{{").partition("}:")[0])
    return pool if key in keys.pool(pool).intake else None


@lru_cache(maxsize=1024)
def _pool_keys(namespace: str, pool: str) -> PoolKeys:
    # The same object each time: the names that it has put together are not put together again.
    return PoolKeys(namespace, pool)
