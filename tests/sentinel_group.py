"""A master, a replica and three Sentinels on this machine, all real, whose nodes can be killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import RedisError

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.embedded.child_process import leashed
from sagellm_control.embedded.ports import LOOPBACK, free_port
from sagellm_control.embedded.valkey import carried_binary

from .cluster_group import PLAIN, ask_server
from .servers import Backend, server_binary
from .waiting import wait_until

DOWN_AFTER_MS = 1000
"""A node that is silent for so long is taken for dead, where a test means to kill the master."""
NEVER_DOWN_MS = 30_000
"""The same where none means to: a loaded machine must not make it fail over."""
SERVICE = "mymaster"


@dataclass
class SentinelServers:
    """A master, a replica, and three Sentinels that watch them."""

    nodes: list[EmbeddedValkey]
    node_ports: list[int]
    """Under which the Sentinels know the nodes."""
    sentinels: list[int]
    """Their ports."""
    tls_sentinels: list[int]
    """Their other ports; empty: no TLS."""

    @property
    def url(self) -> str:
        places = ",".join(f"{LOOPBACK}:{port}" for port in self.tls_sentinels or self.sentinels)
        return f"{'rediss' if self.tls_sentinels else 'redis'}+sentinel://{places}/{SERVICE}"

    async def master(self) -> int:
        """Number of the node that the Sentinels call the master."""
        _, port = await ask_server(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return self.node_ports.index(int(port))

    async def kill(self, number: int) -> None:
        """kill -9 of one node."""
        self.nodes[number].kill()
        await self.nodes[number].wait()

    async def failed_over(self, before: int) -> None:
        """Wait until another node is the master."""

        async def other() -> bool:
            now = await self.master()
            return now != before and (await ask_server(self.nodes[now].port, "ROLE"))[0] == b"master"

        await wait_until(other, 30, what="the replica is the master")

    async def formed(self) -> bool:
        """Whether there are a master and a replica that every Sentinel knows of."""
        try:
            roles = sorted([await ask_server(node.port, "ROLE") for node in self.nodes], key=lambda role: role[0])
            if [role[0] for role in roles] != [b"master", b"slave"] or roles[1][3] != b"connected":
                return False
            for port in self.sentinels:
                facts = await ask_server(port, "SENTINEL", "MASTER", SERVICE)
                known = dict(zip(facts[::2], facts[1::2], strict=True))
                if (known[b"flags"], known[b"num-slaves"], known[b"num-other-sentinels"]) != (b"master", b"1", b"2"):
                    return False
                facts = (await ask_server(port, "SENTINEL", "REPLICAS", SERVICE))[0]
                replica = dict(zip(facts[::2], facts[1::2], strict=True))
                if replica[b"flags"] != b"slave" or replica[b"master-link-status"] != b"ok":
                    return False
        except (RedisError, OSError):
            return False
        return True


@asynccontextmanager
async def sentinel_servers(
    backend: Backend, folder: Path, *, down_after_ms: int = NEVER_DOWN_MS, tls: Mapping[str, str] = PLAIN
) -> AsyncGenerator[SentinelServers, None]:
    """A running set-up.

    Args:
        tls: options of servers and Sentinels that are reached over TLS, but for the port.
    """
    async with AsyncExitStack() as stack:
        nodes: list[EmbeddedValkey] = []
        tls_ports = [free_port() for _ in range(2)] if tls else []
        for name in ("one", "two"):
            options = {"repl-diskless-sync-delay": "0"}
            if tls:
                options |= {**tls, "tls-port": str(tls_ports[len(nodes)])}
            node = EmbeddedValkey(folder / name, options=options, binary=server_binary(backend))
            nodes.append(await stack.enter_async_context(node))
        node_ports = tls_ports or [node.port for node in nodes]
        await ask_server(nodes[1].port, "REPLICAOF", LOOPBACK, node_ports[0])
        lines = [
            f"sentinel monitor {SERVICE} {LOOPBACK} {node_ports[0]} 2",
            f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}",
            f"sentinel failover-timeout {SERVICE} 4000",
        ]
        tls_sentinels = [free_port() for _ in range(3)] if tls else []
        sentinels: list[int] = []
        for number in range(3):
            secured = {**tls, "tls-port": str(tls_sentinels[number])} if tls else PLAIN
            words = [*lines, *(f"{name} {value}" for name, value in secured.items())]
            sentinels.append(await stack.enter_async_context(_sentinel(backend, words)))
        servers = SentinelServers(nodes, node_ports, sentinels, tls_sentinels)
        await wait_until(servers.formed, 30, what="a master, a replica and three Sentinels")
        yield servers


@asynccontextmanager
async def _sentinel(backend: Backend, lines: Sequence[str]) -> AsyncGenerator[int, None]:
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="sagellm-control-sentinel-"))
    # Sentinel writes what it learns into its configuration, and will not start without one.
    head = [f"bind {LOOPBACK}", f"port {port}", f"dir {folder}"]
    (folder / "sentinel.conf").write_text("\n".join([*head, *lines]) + "\n")
    with (folder / "sentinel.log").open("wb") as log:
        binary = str(server_binary(backend) or carried_binary())
        process = await asyncio.create_subprocess_exec(
            *leashed([binary, str(folder / "sentinel.conf"), "--sentinel"]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ,
            start_new_session=True,
        )
    try:
        await wait_until(lambda: _alive(port), what=f"the Sentinel on port {port} answers")
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _alive(port: int) -> bool:
    try:
        return bool(await ask_server(port, "PING"))
    except (RedisError, OSError):
        return False
