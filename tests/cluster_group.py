"""A Redis Cluster of real servers on this machine, whose nodes can be killed and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio as redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.embedded.ports import LOOPBACK, free_port

from .servers import Backend, server_binary
from .waiting import wait_until

SLOTS = 16384
MASTERS = 3
NODE_TIMEOUT_MS = 1000
"""A node that is silent for so long is taken for dead; short, so that tests need not wait for a failover."""
PLAIN: Mapping[str, str] = {}
"""No TLS."""


@dataclass
class ClusterServers:
    """Three masters and a replica of each."""

    nodes: list[EmbeddedValkey]
    tls_ports: list[int]
    """One a node, beside its plain one, which only tests use then; empty: no TLS."""
    killed: set[int] = field(default_factory=set[int])

    @property
    def url(self) -> str:
        """With two of the nodes, as an operator would write it."""
        ports = self.tls_ports or [node.port for node in self.nodes]
        scheme = "rediss" if self.tls_ports else "redis"
        return f"{scheme}+cluster://" + ",".join(f"{LOOPBACK}:{port}" for port in ports[:2])

    async def ask(self, number: int, *words: Any) -> Any:
        """One command to one node."""
        return await ask_server(self.nodes[number].port, *words)

    async def owner_of(self, key: str) -> int:
        """Number of the node that holds a key, according to a living node."""
        slot = key_slot(key.encode())
        alive = next(n for n in range(len(self.nodes)) if n not in self.killed)
        for first, last, master, *_ in await self.ask(alive, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return [node.port for node in self.nodes].index(master[1])
        raise AssertionError(f"nobody holds slot {slot}")

    async def kill(self, number: int) -> None:
        """kill -9 of one node."""
        self.nodes[number].kill()
        await self.nodes[number].wait()
        self.killed.add(number)

    async def heal(self) -> None:
        """Start what was killed, and wait until three masters have a replica each again."""
        for number in sorted(self.killed):
            await self.nodes[number].start()
        self.killed.clear()
        await wait_until(self._whole, 30, what="the cluster is whole")

    async def move_slot(self, slot: int, source: int, target: int, *, keys_at_once: int = 10) -> None:
        """Move one slot with all its keys, as ``redis-cli --cluster reshard`` does it."""
        source_id, target_id = [(await self.ask(n, "CLUSTER", "MYID")).decode() for n in (source, target)]
        await self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        port = self.nodes[target].port
        while keys := await self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, keys_at_once):
            await self.ask(source, "MIGRATE", LOOPBACK, port, "", 0, 5000, "REPLACE", "KEYS", *keys)
            await asyncio.sleep(0)
        for number in (target, source):
            await self.ask(number, "CLUSTER", "SETSLOT", slot, "NODE", target_id)

    async def _whole(self) -> bool:
        for number in range(len(self.nodes)):
            try:
                if b"cluster_state:ok" not in await self.ask(number, "CLUSTER", "INFO"):
                    return False
                ranges = await self.ask(number, "CLUSTER", "SLOTS")
            except (RedisError, OSError):
                return False
            replicas = {master[1]: {node[1] for node in others} for _, _, master, *others in ranges}
            if len(replicas) != MASTERS or any(len(others) != 1 for others in replicas.values()):
                return False
        for number in range(len(self.nodes)):
            role = await self.ask(number, "ROLE")
            if role[0] == b"slave" and role[3] != b"connected":
                return False
        return True

    async def form(self) -> None:
        """Make one cluster of the nodes."""
        first = self.nodes[0]
        share = SLOTS // MASTERS + 1
        for number in range(MASTERS):
            # Different epochs from the start, and the slots before the nodes meet: nothing is left to be settled.
            await self.ask(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            start, stop = number * share, min(SLOTS, (number + 1) * share) - 1
            await self.ask(number, "CLUSTER", "ADDSLOTSRANGE", start, stop)
        port = (self.tls_ports or [first.port])[0]
        for number in range(1, len(self.nodes)):
            await self.ask(number, "CLUSTER", "MEET", LOOPBACK, port, await self._bus_port(0))
        for number in range(MASTERS, len(self.nodes)):
            master_id = (await self.ask(number - MASTERS, "CLUSTER", "MYID")).decode()
            await wait_until(lambda n=number, m=master_id: self._replicates(n, m), 20, what="a replica follows")
        await wait_until(self._whole, 30, what="the cluster is formed")

    async def _bus_port(self, number: int) -> int:
        return int((await self.ask(number, "CONFIG", "GET", "cluster-port"))[1])

    async def _replicates(self, number: int, master_id: str) -> bool:
        try:
            return bool(await self.ask(number, "CLUSTER", "REPLICATE", master_id))
        except RedisError:
            return False  # it has not heard of that node yet


@asynccontextmanager
async def cluster_servers(
    backend: Backend, folder: Path, *, tls: Mapping[str, str] = PLAIN
) -> AsyncGenerator[ClusterServers, None]:
    """A running cluster; append-only, so that a node that was killed comes back with what it had.

    Args:
        tls: options of servers that are reached over TLS, but for the port.
    """
    tls_ports = [free_port() for _ in range(2 * MASTERS)] if tls else []
    async with AsyncExitStack() as stack:
        nodes: list[EmbeddedValkey] = []
        for number in range(2 * MASTERS):
            options = {
                "cluster-enabled": "yes",
                "cluster-port": str(free_port()),
                "cluster-node-timeout": str(NODE_TIMEOUT_MS),
                "cluster-replica-validity-factor": "0",
                "cluster-require-full-coverage": "no",
                "repl-diskless-sync-delay": "0",
                # Redis names a replica among those of a slot when something was replicated, and be it a ping.
                "repl-ping-replica-period": "1",
            }
            if tls:
                options |= {**tls, "tls-port": str(tls_ports[number])}
            node = EmbeddedValkey(folder / f"node-{number}", options=options, binary=server_binary(backend))
            nodes.append(await stack.enter_async_context(node))
        servers = ClusterServers(nodes, tls_ports)
        await servers.form()
        yield servers


async def ask_server(port: int, *words: Any) -> Any:
    """One command to the server on a port, whose answer is left as it is."""
    async with redis.Redis(host=LOOPBACK, port=port, protocol=2, socket_timeout=5) as client:
        client.response_callbacks.clear()
        return await client.execute_command(*_flat(words))


def _flat(words: Sequence[Any]) -> list[Any]:
    return [word if isinstance(word, str | bytes | int) else str(word) for word in words]
