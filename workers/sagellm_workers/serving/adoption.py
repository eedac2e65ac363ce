"""Serves engines that were registered without a worker of their own. Any number of workers may adopt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from redis.exceptions import RedisError

from sagellm_control.stopping import is_set_within
from sagellm_control.store.connect import Store
from sagellm_control.store.inspect import engine_rows
from sagellm_control.store.registrations import registrations
from sagellm_control.store.steps.engines import remove_engine
from sagellm_control.store.trouble import Trouble
from sagellm_control.wire.registration import Registration

from ..adapters.base import EngineAdapter, EngineError, EngineFacts
from ..adapters.discovery import discover, discover_registered, facts_of
from ..adapters.engine_http import EngineOptions
from ..http.transport import EngineClient
from ..settings import WorkerSettings
from .engine_session import EngineSession
from .rows_of_engine import HALF_KNOWN, may_be_paired, row_of_registration, worker_name
from .surveys import Surveys

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
"""How soon a new registration is noticed."""
STAND_BACK_S = 0.02
"""For each engine that a worker has, it lets others go first for so long (s): so that they share."""
LONGEST_STAND_BACK_S = 1.0
PROBE_AGAIN_S = 0.5


class Adopter:
    """Looks for registrations that nobody serves, and serves them until they are withdrawn.

    1. An engine that has a worker is left alone; keepers take it from one whose lease has lapsed.
    2. The lease decides where two adopt at once; whoever comes second looks on.
    3. A registration that is withdrawn ends its session: what runs is finished, and its row is removed.
    """

    def __init__(self, store: Store, client: EngineClient, settings: WorkerSettings) -> None:
        self._store = store
        self._client = client
        self._settings = settings
        self._served: dict[tuple[str, str], tuple[Registration, asyncio.Event]] = {}
        self.name = worker_name()

    async def run(self, stop: asyncio.Event) -> None:
        """Adopt until ``stop`` is set, then drain."""
        trouble = Trouble(log, "cannot look for registered engines")
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                with trouble.told():
                    await self._look(tasks)
                await is_set_within(stop, LOOK_EVERY_S)
            for _, ended in self._served.values():
                ended.set()

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        found = {(item.model_id, item.engine_id): item for item in await registrations(self._store)}
        for key, (registration, ended) in self._served.items():
            now = found.get(key)
            if now is None or now.url != registration.url or now.metadata != registration.metadata:
                ended.set()
        for key, registration in found.items():
            if key in self._served or registration.server or registration.taken_out:
                continue
            if await self._is_held(registration):
                continue
            ended = asyncio.Event()
            self._served[key] = (registration, ended)
            task = tasks.create_task(self._serve(registration, ended), name=f"adopt {registration.engine_id}")
            task.add_done_callback(lambda _task, key=key: self._served.pop(key))

    async def _is_held(self, registration: Registration) -> bool:
        # Whose lease has lapsed, with Redis away say, may be about to renew it: that is for keepers to end.
        rows = await engine_rows(self._store, registration.model_id, [registration.engine_id])
        return bool(rows and rows[0].worker)

    async def _serve(self, registration: Registration, ended: asyncio.Event) -> None:
        try:
            await self._adopt(registration, ended)
        except (RedisError, OSError) as error:
            log.warning("engine %s: cannot be adopted now: %s", registration.engine_id, error)

    async def _adopt(self, registration: Registration, ended: asyncio.Event) -> None:
        others_first_s = min(LONGEST_STAND_BACK_S, STAND_BACK_S * (len(self._served) - 1)) * random.uniform(0.5, 1.0)
        if await is_set_within(ended, others_first_s) or await self._is_held(registration):
            return
        found = await self._find(registration, ended)
        if found is None:
            return
        adapter, facts = found
        row = row_of_registration(registration, adapter, facts, self.name)
        surveys = Surveys()
        session = EngineSession(self._store, adapter, row, self._settings, returned=surveys.again)
        known = facts

        async def look() -> None:
            nonlocal known
            try:
                url, options = registration.url, self._options(registration)
                found, now = await discover(url, self._client, wire=adapter.name, **options)
            except (EngineError, ValueError):
                return  # whether it is there is for the health probes to say
            if now.complete and now != known:
                known = now
                session.take_over(found, row_of_registration(registration, found, now, self.name))

        async def pause_s() -> float:
            return self._settings.survey_interval_s

        surveying = asyncio.create_task(surveys.run(look, pause_s), name=f"survey {registration.engine_id}")
        try:
            await session.serve(ended)
        finally:
            surveying.cancel()
            await asyncio.wait({surveying})
        await self._clean_up(registration)

    def _options(self, registration: Registration) -> EngineOptions:
        options = self._settings.engine_options
        if api_key := registration.metadata.get("api_key"):
            options["api_key"] = str(api_key)
        return options

    async def _find(
        self, registration: Registration, ended: asyncio.Event
    ) -> tuple[EngineAdapter, EngineFacts | None] | None:
        options, told = self._options(registration), ""
        while not ended.is_set():
            try:
                wire = str(registration.metadata.get("wire") or "auto")
                adapter, facts = await discover_registered(registration.url, self._client, wire=wire, **options)
                if await adapter.healthy():
                    facts = facts or await facts_of(adapter)
                    if facts is None or facts.complete or not may_be_paired(facts):
                        return adapter, facts
                    problem = HALF_KNOWN
                else:
                    problem = "it does not answer health probes"
            except (EngineError, ValueError) as error:
                problem = str(error)
            if problem != told:
                log.warning("waiting for registered engine %s: %s", registration.engine_id, problem)
                told = problem
            await is_set_within(ended, PROBE_AGAIN_S)
        return None

    async def _clean_up(self, registration: Registration) -> None:
        # Drained because it was withdrawn, not because this worker stops: then nobody needs its row.
        keys = self._store.keys.pool(registration.model_id)
        with contextlib.suppress(RedisError, OSError):
            if not await self._store.commands.hexists(keys.registrations, registration.engine_id):
                await remove_engine(self._store, registration.model_id, registration.engine_id)
