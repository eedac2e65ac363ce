"""Commands for a Redis Cluster: each goes to the node that holds its key, and follows the slots where they move.

redis-py has a cluster client. This one is here because of what that one does not do (docs/adr/0007): its connections
have our deadlines, a burst waits for a connection instead of failing, ``ASKING`` goes over the connection that the
command goes over, nothing is sent a second time unless the server said that it did not run it, and it is the same for
every redis-py that we support.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis.asyncio as redis
from redis.asyncio.client import Pipeline
from redis.exceptions import AskError, ConnectionError, MovedError, ResponseError, TimeoutError

from .deadline import close_pools
from .slots import slot_of, slot_of_key

MOST_REDIRECTS = 16
"""A slot that moves gives two or three; a cluster that sends us in circles is broken."""
TRY_AGAIN_S, LONGEST_TRY_AGAIN_S = 0.005, 0.1
"""Pauses while keys of one slot are on two nodes: doubled each time."""
LOOK_AGAIN_S = 0.1
"""The slots are not asked for more often than this, except when nothing is known of them."""


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


@dataclass(slots=True, frozen=True)
class _Redirect:
    slot: int
    address: Address
    ask: bool


class ClusterClient(redis.Redis):
    """Looks like a client of one server; each node has a client with a pool of connections of its own.

    Args:
        start: where to ask for the others first.
        connect: makes the client of a node; nothing is sent yet.
        try_again_s: for so long a command is tried again while its keys are on two nodes.
    """

    def __init__(
        self, start: Sequence[Address], connect: Callable[[Address], redis.Redis], *, try_again_s: float
    ) -> None:
        super().__init__()
        self._start = list(start)
        self._connect = connect
        self._try_again_s = try_again_s
        self._clients: dict[Address, redis.Redis] = {}
        self._first_slots: list[int] = []
        self._owners: list[Address] = []
        self._replicas: list[Address] = []
        self._moved: dict[int, Address] = {}
        """What redirections have told since the slots were asked for."""
        self._stale = True
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._closed = False

    # What a client of one server has

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command on the node that holds its key.

        Raises:
            RedisError: as a client of one server would; ``TryAgainError`` where a slot stays on two nodes for long.
        """
        slot = slot_of(args)
        address = await self._owner(slot)
        loop = asyncio.get_running_loop()
        until, pause_s = loop.time() + self._try_again_s, TRY_AGAIN_S
        ask = False
        for _ in range(MOST_REDIRECTS):
            try:
                return await self._run(address, ask, args, options)
            except ResponseError as error:
                if redirect := _redirect(error, address):
                    address, ask = redirect.address, redirect.ask
                    if not ask:
                        self._follow(redirect)
                elif _says(error, "TRYAGAIN") and loop.time() < until:
                    # Some of its keys are here and some there; the rest follows within moments.
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_TRY_AGAIN_S)
                    address, ask = await self._owner(slot), False
                    continue
                else:
                    if _says(error, "CLUSTERDOWN"):
                        self._stale = True
                    raise
            except (ConnectionError, TimeoutError):
                self._stale = True
                raise
        raise ConnectionError(f"the cluster sends {args[0]} from node to node")

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> ClusterPipeline:
        """Commands that are sent together, node by node; those of a transaction must be for keys of one slot."""
        return ClusterPipeline(self, transaction)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections to all nodes; none is made after that."""
        await close_pools(self.retire())

    def retire(self) -> list[Any]:
        """The pools to close (see ``close_pools``); there will be no other."""
        self._closed = True
        return [client.connection_pool for client in self._clients.values()]

    # What only a cluster has

    async def node_of(self, key: str) -> redis.Redis:
        """The client of the node that holds a key."""
        return self.at(await self._owner(slot_of_key(key)))

    async def masters(self) -> list[redis.Redis]:
        """The clients of all nodes that hold slots."""
        await self._look()
        return [self.at(address) for address in dict.fromkeys(self._owners)]

    @property
    def addresses(self) -> list[Address]:
        """All nodes that are known by now, replicas too."""
        return list(dict.fromkeys([*self._owners, *self._replicas, *self._start]))

    def at(self, address: Address) -> redis.Redis:
        """The client of one node.

        Raises:
            ConnectionError: it is a new one, and this client was closed.
        """
        client = self._clients.get(address)
        if client is None:
            if self._closed:
                raise ConnectionError("the connections to the cluster were closed")
            client = self._clients[address] = self._connect(address)
        return client

    async def run_all(
        self, commands: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]], *, transaction: bool = False
    ) -> list[Any]:
        """Answers or ``ResponseError``s, in order; one round trip a node."""
        by_node: dict[Address, list[int]] = {}
        for number, (args, _) in enumerate(commands):
            by_node.setdefault(await self._owner(slot_of(args)), []).append(number)
        answers: list[Any] = [None] * len(commands)
        for address, numbers in by_node.items():
            pipe = self.at(address).pipeline(transaction=transaction)
            for number in numbers:
                args, options = commands[number]
                pipe.execute_command(*args, **options)
            try:
                given = await pipe.execute(raise_on_error=False)
            except (ConnectionError, TimeoutError):
                self._stale = True
                raise
            for number, answer in zip(numbers, given, strict=True):
                answers[number] = answer
        for number, answer in enumerate(answers):
            if isinstance(answer, ResponseError) and (_redirect(answer, None) or _says(answer, "TRYAGAIN")):
                args, options = commands[number]
                try:
                    answers[number] = await self.execute_command(*args, **options)
                except ResponseError as error:
                    answers[number] = error
        return answers

    async def _run(self, address: Address, ask: bool, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        client = self.at(address)
        if not ask:
            return await client.execute_command(*args, **options)
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("ASKING")
        pipe.execute_command(*args, **options)
        _, answer = await pipe.execute(raise_on_error=False)
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    def _follow(self, redirect: _Redirect) -> None:
        self._moved[redirect.slot] = redirect.address
        self._stale = True  # one slot seldom moves alone

    async def _owner(self, slot: int | None) -> Address:
        if self._stale:
            await self._look()
        if slot is None:
            return random.choice(self._owners)
        if moved := self._moved.get(slot):
            return moved
        return self._owners[bisect_right(self._first_slots, slot) - 1]

    async def _look(self) -> None:
        """Ask for the slots. With what is known one can go on if nobody answers."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if not self._stale or (self._owners and now - self._looked_at < LOOK_AGAIN_S):
                return
            self._looked_at = now
            problem: Exception | None = None
            known = list(dict.fromkeys([*self._owners, *self._replicas]))
            random.shuffle(known)
            for address in [*known, *self._start]:
                try:
                    # As two words, redis-py leaves the answer as it is.
                    ranges = await self.at(address).execute_command("CLUSTER", "SLOTS")
                except (ConnectionError, TimeoutError, ResponseError, OSError) as error:
                    problem = error
                    continue
                if ranges:
                    self._learn(ranges, address)
                    return
                problem = ConnectionError(f"{address.host}:{address.port} knows of no slots")
            if not self._owners:
                raise ConnectionError(f"no node of the cluster answers: {problem}") from problem

    def _learn(self, ranges: list[Any], told_by: Address) -> None:
        found = sorted((int(first), [_address(node, told_by) for node in nodes]) for first, _, *nodes in ranges)
        self._first_slots = [first for first, _ in found]
        self._owners = [nodes[0] for _, nodes in found]
        self._replicas = [address for _, nodes in found for address in nodes[1:]]
        self._moved = {}
        self._stale = False


class ClusterPipeline(Pipeline):
    """Collects commands and sends them together."""

    def __init__(self, cluster: ClusterClient, transaction: bool) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """The answers, in order."""
        commands, self.command_stack = self.command_stack, []
        if self.is_transaction and len({slot_of(args) for args, _ in commands}) > 1:
            raise ValueError("the commands of a transaction must be for keys of one slot")
        answers = await self._cluster.run_all(commands, transaction=self.is_transaction)
        if raise_on_error:
            for answer in answers:
                if isinstance(answer, ResponseError):
                    raise answer
        return answers


def _address(node: Sequence[Any], told_by: Address) -> Address:
    host = node[0].decode() if isinstance(node[0], bytes) else node[0]
    return Address(host or told_by.host, int(node[1]))


def _says(error: ResponseError, code: str) -> bool:
    # Older versions of redis-py have no class for it here and leave the code in the text, newer ones do the opposite.
    return str(error).startswith(code) or type(error).__name__.upper().startswith(code)


def _redirect(error: ResponseError, sent_to: Address | None) -> _Redirect | None:
    if isinstance(error, AskError):
        slot, host, port, ask = error.slot_id, error.host, error.port, not isinstance(error, MovedError)
    else:
        code, _, rest = str(error).partition(" ")
        if code not in ("ASK", "MOVED"):
            return None
        number, _, place = rest.partition(" ")
        host, _, port = place.rpartition(":")
        slot, ask = int(number), code == "ASK"
    return _Redirect(slot, Address(host or (sent_to.host if sent_to else ""), int(port)), ask)
