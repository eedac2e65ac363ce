"""The board of a manager that shares its state: what it writes, and what it reads of others."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from typing import Any

from redis.exceptions import RedisError

from ..store.connect import Store
from ..store.registrations import announce_pool, register, registrations, replace, unregister
from ..store.steps.engines import drain_engine, remove_engine
from ..store.steps.policy import set_policy
from ..store.steps.say_alive import is_alive, say_alive
from ..store.trouble import Trouble
from ..store.views import EngineView, list_engines
from ..types import EngineInfo, EngineState
from ..wire.registration import DEFAULT_ROOM, Registration
from .arguments import engine_state
from .as_json import as_json
from .board import EngineBoard
from .engine_adapters import EngineAdapters
from .engine_objects import EngineObjects
from .engines_of_others import from_registration, from_row
from .promised import PromisedEngines

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
"""How old the board may be."""
ANNOUNCE_EVERY = 10
"""Looks after which the pools of its engines are made known again."""


Write = Callable[[Store], Awaitable[None]]


class SharedEngines:
    """Writes what programs say of engines, in the order in which they said it, and follows what becomes of them.

    ``room``: of an engine that does not tell; ``recorded``: what the schedulers of the engines' pools are to follow.
    """

    def __init__(
        self, manager_id: str, board: EngineBoard, adapters: EngineAdapters, room: int, recorded: dict[str, str]
    ) -> None:
        self.manager_id = manager_id
        self.board = board
        self._room = room
        self._recorded = recorded
        self._writes: list[Write] = []
        self._said = 0
        """How much has been said, written or not."""
        self._own: dict[str, Registration] = {}
        """What was registered here."""
        self._overrides: dict[str, str] = {}
        self._gone: set[str] = set()
        """What was unregistered here and still drains."""
        self._objects = EngineObjects(manager_id, adapters)
        self.promised = PromisedEngines(board)
        self._flushing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._read_at = float("-inf")
        """Loop time at which the newest reading of the board began."""

    # What programs say

    def register(self, info: EngineInfo) -> None:
        """See ``Backend.register``. Raises TypeError, ValueError: names the argument that cannot be shared."""
        metadata = {name: value for name, value in (info.metadata or {}).items() if name != "engine_instance"}
        own = (info.metadata or {}).get("engine_instance") is not None
        if self._room != DEFAULT_ROOM:  # the worker does not know this manager's settings
            metadata.setdefault("max_concurrent_requests", self._room)
        registration = Registration(
            info.engine_id,
            info.model_id,
            info.host,
            info.port,
            info.engine_kind,
            metadata,
            info.created_at.isoformat(),
            server=self.manager_id if own else "",
        )
        _check(registration)
        self._own[info.engine_id] = registration
        info.watch(self._changed)
        if registration.metadata.get("pre_verified_healthy"):
            info.__dict__["state"] = EngineState.READY
            self.promised.add(info.engine_id)

        async def write(store: Store) -> None:
            if own:
                await say_alive(store, self.manager_id)  # first, or it could be taken for left behind
            other = await register(store, registration)
            if other is not None:
                log.error("engine %s: registered before, at %s; that stays", info.engine_id, other.url)
                if not (own and other.server):  # else it is served here when that process is gone
                    self._own.pop(info.engine_id, None)
                return
            if self._recorded:
                policy = self._recorded.get("policy")
                await set_policy(store, registration.model_id, {"policy": policy} if policy else {}, self._recorded)
            # It may have been unregistered a moment ago, and its worker not have noticed.
            await drain_engine(store, registration.model_id, info.engine_id, drain=False)
            if own:
                await self._objects.serve(store, info, registration)

        self._say(write)

    def unregister(self, info: EngineInfo) -> None:
        """See ``Backend.unregister``."""
        engine_id = info.engine_id
        pool = self.board.model_of(engine_id)  # programs may have written another model on it since
        self._own.pop(engine_id, None)
        self._overrides.pop(engine_id, None)
        self._gone.add(engine_id)
        self.promised.forget(engine_id)
        info.watch(None)

        async def write(store: Store) -> None:
            # In this order, as whoever registers it anew, here or elsewhere, takes the drain back.
            await drain_engine(store, pool, engine_id)
            await unregister(store, pool, engine_id)
            await self._objects.end(engine_id)
            await remove_engine(store, pool, engine_id)

        self._say(write)

    def set_state(self, info: EngineInfo, state: EngineState) -> None:
        """See ``Backend.set_state``: nothing new goes to an engine that is not to be READY."""
        engine_id, pool = info.engine_id, self.board.model_of(info.engine_id)
        info.__dict__["state"] = state  # past the watcher, who has us told
        self._overrides[engine_id] = str(state)

        async def write(store: Store) -> None:
            known = await store.commands.hget(store.keys.pool(pool).registrations, engine_id)
            if known is not None:
                said = "" if state is EngineState.READY else str(state)
                await replace(store, dataclasses.replace(Registration.decode(known), state=said))
            await drain_engine(store, pool, engine_id, drain=state is not EngineState.READY)
            self._overrides.pop(engine_id, None)

        self._say(write)

    def _claim_objects(self) -> None:
        """Engine objects that are not served: this manager was stopped, or another process that has died served one."""
        for info in [self.board.engines[engine_id] for engine_id in self._own if engine_id in self.board.engines]:
            registration = self._own[info.engine_id]

            async def write(store: Store, info: EngineInfo = info, registration: Registration = registration) -> None:
                if self._own.get(info.engine_id) is registration:
                    await self._objects.claim(store, info, registration)

            if registration.server and not self._objects.serves(info.engine_id):
                self._say(write)

    def _changed(self, info: EngineInfo, name: str) -> None:
        if name == "state":
            self.set_state(info, engine_state(info.state))

    def _say(self, write: Write) -> None:
        self._said += 1
        self._writes.append(write)
        self._wake.set()

    async def flush(self, store: Store) -> None:
        """Write what has been said. Raises RedisError if Redis cannot be reached; it is then said again later."""
        if not self._writes:
            return
        async with self._flushing:
            while self._writes:
                try:
                    await self._writes[0](store)
                except (RedisError, OSError):
                    raise
                except Exception:
                    # Whatever is wrong with it, what is said of other engines does not wait for it.
                    log.exception("what was said of an engine cannot be written")
                del self._writes[0]

    # What becomes of them

    @asynccontextmanager
    async def followed(self, store: Store) -> AsyncGenerator[None, None]:
        """Keep the board up to date."""
        self._flushing, self._wake = asyncio.Lock(), asyncio.Event()
        task = asyncio.create_task(self._follow(store), name="engines")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            self.promised.clear()
            with suppress(RedisError, OSError):
                await self.flush(store)
            await self._objects.end_all()

    async def _follow(self, store: Store) -> None:
        trouble = Trouble(log, "cannot follow the engines")
        for looks in count():
            with trouble.told():
                if looks % ANNOUNCE_EVERY == 0 and not self._writes:
                    self._claim_objects()
                await self.flush(store)
                await self.refresh(store)
                if looks % ANNOUNCE_EVERY == 0:
                    for model in {registration.model_id for registration in self._own.values()}:
                        await announce_pool(store, model)
            self.promised.looked()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()

    async def refresh(self, store: Store) -> None:
        """Read all engines. Those that are about to be written are left as they are."""
        began, said = asyncio.get_running_loop().time(), self._said
        registered = {item.engine_id: item for item in await registrations(store)}
        rows = {view.engine_id: view for view in await list_engines(store)}
        others = {item.server for item in registered.values()} - {"", self.manager_id}
        dead = {server for server in others if not await is_alive(store, server)}
        if self._writes or self._said != said:
            return  # what was read may be older than what has been said
        self._read_at = began
        self._gone = {name for name in self._gone if name in rows and rows[name].state is not EngineState.READY}
        board = self.board
        board.kinds = {name: view.kinds for name, view in rows.items() if name not in registered}
        board.abandoned = {item.engine_id for item in registered.values() if item.server in dead}
        for engine_id in [name for name in board.engines if name not in registered and name not in rows]:
            board.engines[engine_id].watch(None)
            board.remove(engine_id)
            self._own.pop(engine_id, None)
        for engine_id, item in registered.items():
            if engine_id not in board.engines:
                self._add(from_registration(item))
            self._take_over(board.engines[engine_id], rows.get(engine_id), item.state)
        for engine_id, view in rows.items():
            if engine_id not in registered and engine_id not in self._gone:
                if engine_id not in board.engines:
                    self._add(from_row(view))
                self._take_over(board.engines[engine_id], view, "")

    def _add(self, info: EngineInfo) -> None:
        self.board.add(info)
        info.watch(self._changed)

    def note_held(self, engine_id: str, more: int, *, since: float = float("inf")) -> None:
        """The engine has so many requests more, until the board is read anew; unless it was, after ``since``."""
        info = self.board.engines.get(engine_id)
        if info is not None and self._read_at < since:
            info.__dict__["active_requests"] = max(0, info.active_requests + more)

    def _take_over(self, info: EngineInfo, view: EngineView | None, said: str) -> None:
        if info.engine_id in self._overrides:
            return
        fields: dict[str, Any] = info.__dict__
        state = view.state if view is not None else EngineState.STARTING
        if state is not EngineState.STARTING:
            self.promised.forget(info.engine_id)
        shown = EngineState.READY if self.promised.holds(info.engine_id) else state
        fields["state"] = EngineState(said) if said else shown
        fields["active_requests"] = view.active if view is not None else 0
        if state is EngineState.READY:
            fields["last_heartbeat"] = datetime.now(UTC)
            fields["consecutive_failures"] = 0


def _check(registration: Registration) -> None:
    # Now, and not when it is written: its caller is told, and what others say does not wait behind it.
    for name in ("engine_id", "model_id"):
        if not isinstance(value := getattr(registration, name), str):
            raise TypeError(f"{name} must be a string where the state is shared, not {value!r}")
    as_json({name: getattr(registration, name) for name in Registration.__slots__})
