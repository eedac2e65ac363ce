"""The rows of an engine, from what it says about itself and from the settings, or from how a program registered it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from sagellm_control.wire.engine import PAIRED_KIND, EngineRole, EngineRow
from sagellm_control.wire.registration import DEFAULT_ROOM, Registration, instance_type_of, kinds_of, role_of

from ..adapters.base import EngineAdapter, EngineFacts
from ..pairs.paired_request import paired_kinds, paired_role
from ..settings import WorkerSettings

log = logging.getLogger(__name__)

MOST_CARDS = 64
"""Of one engine in one pool: each gateway reads them every second."""
USUAL_LOOPBACK = ("127.0.0.1", "localhost", "::1")
HALF_KNOWN = "it does not say yet whether it takes whole requests"


def make_rows(url: str, facts: EngineFacts, settings: WorkerSettings) -> list[EngineRow]:
    """A row for each pool that the engine belongs to.

    A pool is a model that is no adapter of another one; its adapters are further names of it. An engine with several
    such models is one row in each pool, with the slots divided, at least one each: see ``SharedSlots``. What is left
    over goes to the first by name: an engine may list its models in another order the next time (Ollama: the newest
    first).
    """
    known = {model.name for model in facts.models}
    bases = [m.name for m in facts.models if m.parent not in known or m.parent == m.name]
    wanted = [name for name in bases if not settings.model or name in settings.model]
    slots, note = slots_of(facts, settings), ""
    if not settings.slots and not facts.slots:
        note = f"{slots} slots assumed: it does not say; set worker.slots (SAGELLM_CONTROL_WORKER_SLOTS)"
        log.warning("engine %s: %s", url, note)
    kv_tokens = (facts.kv_tokens or 0) if settings.kv_tokens is None else settings.kv_tokens
    role = role_by_facts(url, facts, settings.role)
    each, rest = divmod(slots, max(1, len(wanted)))
    one_more = sorted(wanted)[:rest]
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
                slots=max(1, each + (base in one_more)),
                models=(base, *adapters),
                cards=cards_of(facts, (base, *adapters)),
                prefetch=settings.prefetch,
                role=role,
                kinds=paired_kinds(facts),
                kv_tokens=kv_tokens // len(wanted),
                reason=note,
                worker=worker_name(),
            )
        )
    return rows


def row_of_registration(
    registration: Registration, adapter: EngineAdapter, facts: EngineFacts | None, worker: str
) -> EngineRow:
    """The row of a registered engine: its room as registered, and what it says about itself."""
    instance_type = instance_type_of(registration.metadata)
    room, kv_tokens = (registration.metadata.get(name) for name in ("max_concurrent_requests", "kv_tokens"))
    if not isinstance(kv_tokens, int) or kv_tokens < 0:
        kv_tokens = facts.kv_tokens if facts else None
    return EngineRow(
        engine_id=registration.engine_id,
        pool=registration.model_id,
        url=registration.url,
        kind=facts.kind if facts else adapter.name,
        version=facts.version if facts else "",
        slots=room if isinstance(room, int) and room > 0 else DEFAULT_ROOM,
        models=(registration.model_id,),
        cards=cards_of(facts, (registration.model_id,)) if facts else (),
        kinds=paired_kinds(facts) or kinds_of(registration.engine_kind, instance_type),
        kv_tokens=kv_tokens or 0,
        worker=worker,
        role=paired_role(facts) or role_of(instance_type),
    )


def may_be_paired(facts: EngineFacts) -> bool:
    """Whether it may be one that takes no whole requests: given one all the same, it would never answer."""
    return facts.kind == PAIRED_KIND


def worker_name() -> str:
    """Of this process, for people: its machine and its process id."""
    return f"{socket.gethostname()}-{os.getpid()}"


def cards_of(facts: EngineFacts, models: Collection[str]) -> tuple[tuple[str, str], ...]:
    """What it says of these models (see ``EngineRow.cards``)."""
    return tuple((m.name, m.card) for m in facts.models if m.card and m.name in models)[:MOST_CARDS]


def slots_of(facts: EngineFacts, settings: WorkerSettings) -> int:
    """Requests that the engine runs at once, of all its models together."""
    return settings.slots or facts.slots or settings.default_slots


def role_by_facts(url: str, facts: EngineFacts, wanted: EngineRole) -> EngineRole:
    """The engine's role: an SGLang engine has been started for one, others take that of the settings."""
    if not may_be_paired(facts):
        return wanted
    told = paired_role(facts)
    if told is None and wanted in (EngineRole.PREFILL, EngineRole.DECODE):
        log.warning("engine %s runs without --disaggregation-mode: it gets whole requests", url)
        return EngineRole.GENERAL
    if told is not None and wanted not in (told, EngineRole.GENERAL):
        log.warning("engine %s runs with --disaggregation-mode %s: that is its role", url, facts.disaggregation)
    return told or wanted


def engine_id(url: str) -> str:
    """Host and port; on loopback the machine's name stands for the host, as every machine has a loopback.

    Other addresses of the loopback than the usual ones stay beside it: each may have an engine at the same port.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in USUAL_LOOPBACK:
        host = socket.gethostname()
    elif host.startswith("127."):
        host = f"{socket.gethostname()}-{host}"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = parts.path.rstrip("/").removesuffix("/v1").strip("/").replace("/", "_")
    return f"{host}:{port}" + (f"_{path}" if path else "")
