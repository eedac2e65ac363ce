"""The pool that is scheduled: requests that were accepted as a gateway accepts them, engines that nobody serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.store.connect import Store, open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.store.steps.accept import Accepted, AcceptLimits, accept
from sagellm_control.store.steps.engines import register_engine
from sagellm_control.store.steps.take import ensure_groups
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import NewRequest
from sagellm_control.wire.states import EngineState, RequestKind

from ..process import MeasuredProcess
from ..system import MODEL

LEASE_MS = 3_600_000
"""No worker renews these leases, and no run lasts an hour."""
LONG_AGING_S = 86_400
"""A head start that keeps the classes apart however long a run takes."""
LIMITS = AcceptLimits(max_waiting=100_000_000, without_engine=True)
ACCEPTED_AT_ONCE = 250
COPIED_AT_ONCE = 2000
DELETED_AT_ONCE = 1000
CALLS_AT_ONCE = 4
COMMAND_TIMEOUT_S = 60.0
"""Deleting the traces of a case takes the server longer than any step of a real system."""
ADAPTER = f"{MODEL}-adapter"
"""A further model name, of which only full engines know."""

_COPY = """
for i = 2, #ARGV do
  redis.call('COPY', KEYS[2], KEYS[2 * i])
  redis.call('COPY', KEYS[3], KEYS[2 * i + 1])
  redis.call('ZADD', KEYS[1], ARGV[1] + i / 1000, ARGV[i])
end
"""

BODY = orjson.dumps(
    {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What does a queue do while nobody is waiting in it? " * 3}],
        "max_tokens": 128,
        "stream": True,
    }
)


class Pool:
    """A pool on a server of its own."""

    def __init__(self, store: Store, valkey: EmbeddedValkey, folder: Path) -> None:
        self.store = store
        self.keys = store.keys.pool(MODEL)
        self.url = valkey.url
        self.server_pid = valkey.pid
        self._folder = folder
        self._engines: list[str] = []

    def scheduler(self) -> MeasuredProcess:
        """A scheduler process, to be entered."""
        flags = ["--redis-url", self.url, "--aging-s", str(LONG_AGING_S)]
        return MeasuredProcess.control("scheduler", ["scheduler", *flags], self._folder)

    async def accept(self, number: int, priority: RequestPriority, tag: str, *, model: str = "") -> list[str]:
        """Put requests into the intake stream of a class; their ids."""
        # As long as the ids that a gateway makes up.
        ids = [f"{tag}{i:0{32 - len(tag)}d}" for i in range(number)]
        parts = [ids[at : at + ACCEPTED_AT_ONCE] for at in range(0, number, ACCEPTED_AT_ONCE)]
        turn = iter(parts)

        async def some() -> None:
            for part in turn:
                requests = [_request(request_id, priority, model) for request_id in part]
                answers = await accept(self.store, MODEL, requests, LIMITS)
                if not all(isinstance(answer, Accepted) for answer in answers):
                    raise RuntimeError(f"requests were not accepted: {answers[0]}")

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLS_AT_ONCE):
                tasks.create_task(some())
        return ids

    async def copy_waiting(self, request_id: str, number: int, tag: str) -> None:
        """Let so many copies of a request that waits wait behind it."""
        keys, db = self.keys, self.store.commands
        rank = await db.zscore(keys.waiting, request_id)
        source = [keys.waiting, keys.record(request_id), keys.body(request_id)]
        copy = db.register_script(_COPY)
        for at in range(0, number, COPIED_AT_ONCE):
            names = [f"{tag}{i:0{32 - len(tag)}d}" for i in range(at, min(number, at + COPIED_AT_ONCE))]
            targets = [key for name in names for key in (keys.record(name), keys.body(name))]
            await copy(keys=[*source, *targets], args=[rank, *names])

    async def set_engines(
        self, number: int, places: int, *, name: str = "engine", models: Sequence[str] = (MODEL,)
    ) -> None:
        """Have so many READY engines with that many places together, as even as can be; 0 places: they are full."""
        names = [f"{name}-{i}" for i in range(number)]
        for at in range(0, number, ACCEPTED_AT_ONCE):
            async with asyncio.TaskGroup() as tasks:
                for i in range(at, min(number, at + ACCEPTED_AT_ONCE)):
                    slots = places // number + (i < places % number)
                    tasks.create_task(self._register(names[i], slots, models))
        self._engines = list(dict.fromkeys(self._engines + names))

    async def arrivals(self) -> int:
        """Requests in the intake streams."""
        pipe = self.store.commands.pipeline(transaction=False)
        for stream in self.keys.intake:
            pipe.xlen(stream)
        return sum(await pipe.execute())

    async def waiting(self) -> int:
        """Requests in the waiting set."""
        return await self.store.commands.zcard(self.keys.waiting)

    async def assigned(self) -> list[int]:
        """Requests in each engine's assigned stream."""
        pipe = self.store.commands.pipeline(transaction=False)
        for engine in self._engines:
            pipe.xlen(self.keys.assigned(engine))
        return await pipe.execute()

    async def used_memory(self) -> int:
        """Bytes that the server has allocated."""
        return (await self.store.commands.info("memory"))["used_memory"]

    async def command_calls(self) -> dict[str, int]:
        """How often each command has been run, those inside scripts included."""
        stats = await self.store.commands.info("commandstats")
        return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}

    async def forget(self, request_ids: Sequence[str]) -> None:
        """Remove these requests and all engines without a trace."""
        keys, db = self.keys, self.store.commands
        names = [name for request in request_ids for name in (keys.record(request), keys.body(request))]
        for engine in self._engines:
            names += (keys.engine(engine), keys.reservations(engine), keys.assigned(engine))
        names += (keys.room, keys.leases, keys.engines, keys.freed)
        for at in range(0, len(names), DELETED_AT_ONCE):
            await db.delete(*names[at : at + DELETED_AT_ONCE])
        self._engines = []
        await ensure_groups(self.store, keys)

    async def _register(self, name: str, slots: int, models: Sequence[str]) -> None:
        row = EngineRow(
            engine_id=name,
            pool=MODEL,
            url="http://127.0.0.1:9",  # nobody listens there, and nobody calls
            kind="simulated",
            slots=slots,
            models=tuple(models),
            state=EngineState.READY,
            worker="benchmark",
        )
        await register_engine(self.store, row, lease_ms=LEASE_MS)


@asynccontextmanager
async def empty_pool(*, persist: bool, server_binary: Path | None) -> AsyncIterator[Pool]:
    """A pool without requests and engines, on a server that ends with it."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="sagellm-benchmark-")))
        valkey = EmbeddedValkey(folder / "valkey", persist=persist, binary=server_binary)
        await stack.enter_async_context(valkey)
        redis = RedisSettings(url=valkey.url, command_timeout_s=COMMAND_TIMEOUT_S)
        store = await stack.enter_async_context(open_store(redis))
        await store.commands.sadd(store.keys.pools(), MODEL)
        pool = Pool(store, valkey, folder)
        await ensure_groups(store, pool.keys)
        yield pool


def _request(request_id: str, priority: RequestPriority, model: str) -> NewRequest:
    return NewRequest(
        id=request_id,
        pool=MODEL,
        kind=RequestKind.CHAT,
        body=BODY,
        inbox="sagellm:inbox:0123456789ab",
        ticket="01234567",
        priority=priority,
        tenant="benchmark",
        model=model,
        stream=True,
        timeout_ms=LEASE_MS,
        prompt_tokens=40,
        max_tokens=128,
    )
