"""A worker process: finds out what each engine is and serves it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from urllib.parse import urlsplit

from prometheus_client import start_http_server

from sagellm_control.stopping import is_set_within, run_until, stop_requested
from sagellm_control.store.connect import Store, open_store
from sagellm_control.store.settings import RedisSettings
from sagellm_control.wire.engine import PAIRED_KIND, EngineRole, EngineRow

from .adapters.base import EngineAdapter, EngineError, EngineFacts
from .adoption import Adopter
from .discovery import discover
from .engine_session import EngineSession
from .paired_request import paired_kinds, paired_role
from .settings import WorkerSettings
from .transport import EngineClient, engine_client

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
"""Pause between two looks for an engine that is not there yet."""


class WorkerMisconfigured(Exception):
    """The settings cannot work; the text says what to do."""


async def run(settings: WorkerSettings, redis: RedisSettings) -> None:
    """Serve the engines until SIGTERM or SIGINT, then drain them."""
    if not settings.engine and not settings.adopt:
        raise WorkerMisconfigured("no engine to serve: give --engine URL, once for each engine, or --adopt")
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
    async with (
        stop_requested() as stop,
        open_store(redis, check=not redis.wait) as store,
        engine_client(trust_env=settings.trust_env) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await run_until(stop, store.wait())
        for url in dict.fromkeys(settings.engine):
            tasks.create_task(serve_engine(store, client, url, settings, stop), name=f"serve {url}")
        if settings.adopt:
            tasks.create_task(Adopter(store, client, settings).run(stop), name="adopt")


async def serve_engine(
    store: Store, client: EngineClient, url: str, settings: WorkerSettings, stop: asyncio.Event
) -> None:
    """Wait for the engine, find out what it is, and serve it in the pool of each of its models."""
    found = await find_engine(client, url, settings, stop)
    if found is None:
        return
    adapter, facts = found
    rows = engine_rows(url, facts, settings)
    if not rows:
        names = ", ".join(model.name for model in facts.models)
        log.error("engine %s serves none of the models asked for; it has: %s", url, names or "none")
        return
    async with asyncio.TaskGroup() as tasks:
        for row in rows:
            session = EngineSession(store, adapter, row, settings)
            tasks.create_task(session.serve(stop), name=f"serve {row.pool} on {url}")


async def find_engine(
    client: EngineClient, url: str, settings: WorkerSettings, stop: asyncio.Event
) -> tuple[EngineAdapter, EngineFacts] | None:
    """Probe until the engine answers; None: stopped meanwhile."""
    told, looks = "", 0
    while not stop.is_set():
        looks += 1
        try:
            adapter, facts = await discover(url, client, adapter=settings.wire, **settings.engine_options)
            if facts.models:
                return adapter, facts
            problem = "it lists no models"
        except (EngineError, ValueError) as error:
            problem = str(error)
        # An engine that is started at the same time as its worker is not worth a warning.
        if problem != told and looks > 1:
            log.warning("waiting for engine %s: %s", url, problem)
            told = problem
        await is_set_within(stop, LOOK_AGAIN_S)
    return None


def engine_rows(url: str, facts: EngineFacts, settings: WorkerSettings) -> list[EngineRow]:
    """A row for each pool that the engine belongs to.

    A pool is a model that is no adapter of another one; its adapters are further names of it. An engine with several
    such models is one row in each pool, with the slots divided, at least one each.
    """
    known = {model.name for model in facts.models}
    bases = [m.name for m in facts.models if m.parent not in known or m.parent == m.name]
    wanted = [name for name in bases if not settings.model or name in settings.model]
    slots = settings.slots or facts.slots or settings.default_slots
    kv_tokens = (facts.kv_tokens or 0) if settings.kv_tokens is None else settings.kv_tokens
    role = role_of(url, facts, settings.role)
    rows: list[EngineRow] = []
    for base in wanted:
        adapters = [m.name for m in facts.models if m.parent == base and m.name != base]
        rows.append(
            EngineRow(
                engine_id=engine_id(url),
                pool=base,
                url=url,
                kind=facts.kind,
                version=facts.version,
                slots=max(1, slots // len(wanted)),
                models=(base, *adapters),
                prefetch=settings.prefetch,
                role=role,
                kinds=paired_kinds(facts),
                kv_tokens=kv_tokens // len(wanted),
                worker=f"{socket.gethostname()}-{os.getpid()}",
            )
        )
    return rows


def role_of(url: str, facts: EngineFacts, wanted: EngineRole) -> EngineRole:
    """The engine's role: an SGLang engine has been started for one, others take that of the settings."""
    if facts.kind != PAIRED_KIND:
        return wanted
    told = paired_role(facts)
    if told is None and wanted in (EngineRole.PREFILL, EngineRole.DECODE):
        log.warning("engine %s runs without --disaggregation-mode: it gets whole requests", url)
        return EngineRole.GENERAL
    if told is not None and wanted not in (told, EngineRole.GENERAL):
        log.warning("engine %s runs with --disaggregation-mode %s: that is its role", url, facts.disaggregation)
    return told or wanted


def engine_id(url: str) -> str:
    """Host and port; on loopback the machine's name stands for the host, as every machine has a loopback."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        host = socket.gethostname()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = parts.path.rstrip("/").removesuffix("/v1").strip("/").replace("/", "_")
    return f"{host}:{port}" + (f"_{path}" if path else "")
