"""What the in-process API borrows from the workers: the HTTP client and the adapters that talk to engines.

The only module outside the command line that imports the workers' package, and only what needs no store, but for
``engine_session``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sagellm_workers.adapters.base import (
    EngineAdapter,
    EngineBroken,
    EngineCall,
    EngineError,
    EngineFacts,
    EngineReply,
    EngineTimeout,
    EngineUnreachable,
)
from sagellm_workers.adapters.chunks import WholeBody
from sagellm_workers.adapters.discovery import WIRES, adapter_for, facts_of, kind_of
from sagellm_workers.adapters.engine_http import retry_after_s
from sagellm_workers.adapters.sagellm_reply import DONE, WRONG_VECTORS, error_of
from sagellm_workers.adapters.sse import data_of
from sagellm_workers.adapters.told_error import refuses
from sagellm_workers.attempts.engine_errors import read_error_reply
from sagellm_workers.attempts.prefill_decode import NotSeparable, Stale, read_prefill, staged_call
from sagellm_workers.http.transport import EngineClient as EngineHttpClient
from sagellm_workers.http.transport import engine_client as engine_http_client
from sagellm_workers.observation.answer_watch import AnswerWatch
from sagellm_workers.observation.observation import EngineObservation
from sagellm_workers.takeover import CannotContinue, Takeover

if TYPE_CHECKING:
    from sagellm_workers.serving.engine_session import EngineSession

    from .store.connect import Store
    from .wire.registration import Registration

__all__ = [
    "DONE",
    "WIRES",
    "WRONG_VECTORS",
    "AnswerWatch",
    "CannotContinue",
    "EngineAdapter",
    "EngineBroken",
    "EngineCall",
    "EngineError",
    "EngineFacts",
    "EngineHttpClient",
    "EngineObservation",
    "EngineReply",
    "EngineTimeout",
    "EngineUnreachable",
    "NotSeparable",
    "Stale",
    "Takeover",
    "WholeBody",
    "adapter_for",
    "data_of",
    "engine_http_client",
    "engine_session",
    "error_of",
    "kind_of",
    "read_error_reply",
    "read_prefill",
    "refuses",
    "retry_after_s",
    "staged_call",
]


async def engine_session(store: Store, adapter: object, registration: Registration, worker: str) -> EngineSession:
    """A session that serves an engine of this process as a worker would; it needs a store, so it is loaded late.

    Raises EngineUnreachable.
    """
    from sagellm_workers.serving.engine_session import EngineSession
    from sagellm_workers.serving.rows_of_engine import row_of_registration
    from sagellm_workers.settings import WorkerSettings

    served = cast(EngineAdapter, adapter)
    row = row_of_registration(registration, served, await facts_of(served), worker)
    return EngineSession(store, served, row, WorkerSettings())
