"""One engine of a worker and the pools that it is in: looked for, served, and asked again whether it is still the same.

An engine may be started again with another model or fewer slots, or load an adapter while it runs. So it is asked anew
now and then, and whenever it answers again after it did not. What has changed is taken over without touching what runs;
a model that it has no more is drained and retired, and one that is new is registered. A survey that fails is logged and
changes nothing: whether the engine is there is for the health probes to say.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from sagellm_control.stopping import run_until
from sagellm_control.store.connect import Store
from sagellm_control.wire.engine import EngineRow

from ..adapters.base import EngineAdapter, EngineError, EngineFacts
from ..adapters.discovery import discover
from ..http.transport import EngineClient
from ..settings import WorkerSettings
from .awaited_note import AwaitedNote
from .engine_session import EngineSession
from .rows_of_engine import HALF_KNOWN, make_rows, may_be_paired, slots_of, worker_name
from .shared_slots import SharedSlots
from .surveys import Surveys

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
"""Pause between two looks for an engine that is not there yet."""


@dataclass(slots=True)
class _Served:
    """The session of one pool, and the event that ends it."""

    session: EngineSession
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class ServedEngine:
    """Serves one engine in the pool of each of its models."""

    def __init__(self, store: Store, client: EngineClient, url: str, settings: WorkerSettings) -> None:
        self._store = store
        self._client = client
        self._url = url
        self._settings = settings
        self._found: tuple[EngineAdapter, EngineFacts] | None = None
        self._rows: list[EngineRow] = []
        self._slots = SharedSlots(1)
        self._served: dict[str, _Served] = {}
        """By pool."""
        self._looks = 0
        self._told = ""
        """Why it is waited for, or cannot be asked anew; empty: neither."""
        self._note = AwaitedNote(store, url, worker_name())
        self._surveys = Surveys()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain."""
        async with asyncio.TaskGroup() as tasks:
            await run_until(stop, self._surveys.run(lambda: self._look(tasks), self._pause_s))
            for served in self._served.values():
                served.ended.set()
            await self._note.tell("")

    async def _pause_s(self) -> float:
        await self._note.tell("" if self._rows else self._told)
        return self._settings.survey_interval_s if self._rows else LOOK_AGAIN_S

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        self._looks += 1
        try:
            found = await self._survey()
        except (EngineError, ValueError) as error:
            # An engine that is started at the same time as its worker is not worth a warning.
            if self._looks > 1:
                self._tell(logging.WARNING, str(error))
            return
        facts = found[1]
        if not facts.complete and (self._rows or may_be_paired(facts)):
            if not self._rows:
                self._tell(logging.WARNING, HALF_KNOWN)
            return
        if self._found is None or facts != self._found[1]:
            self._found = found
            self._rows = make_rows(self._url, facts, self._settings)
        adapter = self._found[0]  # where nothing has changed, the one that knows when it last heard of the engine
        if self._rows:
            self._told = ""
        else:
            # It may load one of them yet, as one that is not there yet may be started.
            asked, has = ", ".join(self._settings.model), ", ".join(model.name for model in facts.models)
            self._tell(
                logging.ERROR,
                f"it serves none of the models asked for ({asked}); it has: {has}" if has else "it lists no models",
            )
        self._serve(adapter, tasks)
        self._slots.resize(slots_of(facts, self._settings))

    async def _survey(self) -> tuple[EngineAdapter, EngineFacts]:
        """A new adapter and what it was told. Raises EngineUnreachable and ValueError."""
        options = self._settings.engine_options
        if self._rows and self._found is not None:
            try:
                return await discover(self._url, self._client, wire=self._found[0].name, **options)
            except ValueError:
                pass  # it may speak another wire than before
        return await discover(self._url, self._client, wire=self._settings.wire, **options)

    def _serve(self, adapter: EngineAdapter, tasks: asyncio.TaskGroup) -> None:
        """Make the sessions what the rows are."""
        wanted = {row.pool: row for row in self._rows}
        for pool, served in self._served.items():
            if pool not in wanted and not served.ended.is_set():
                served.session.farewell = f"the engine does not serve {pool} any more"
                served.ended.set()
        for pool, row in wanted.items():
            if (served := self._served.get(pool)) is not None:
                if not served.ended.is_set():  # one that is ending is followed by another one when it is over
                    served.session.take_over(adapter, row)
                continue
            session = EngineSession(
                self._store, adapter, row, self._settings, slots=self._slots, returned=self._surveys.again
            )
            self._served[pool] = served = _Served(session)
            task = tasks.create_task(session.serve(served.ended), name=f"serve {pool} on {self._url}")
            task.add_done_callback(lambda _task, pool=pool: self._forget(pool))

    def _forget(self, pool: str) -> None:
        del self._served[pool]
        self._surveys.soon()

    def _tell(self, level: int, problem: str) -> None:
        if problem != self._told:
            text = "engine %s cannot be asked what it is now: %s" if self._rows else "waiting for engine %s: %s"
            log.log(level, text, self._url, problem)
            self._told = problem
