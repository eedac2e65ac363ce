"""The control plane as a library."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sagellm_protocol import ErrorCode, Request, Response, StreamEvent

from ..engine_access import WRONG_VECTORS
from ..types import RequestPriority, RequestType, SchedulingDecision
from .arguments import client_error, protocol_request, scheduling_wish, texts_to_embed
from .backend import Job, RequestFailed
from .configured import configured
from .events import EventWriter
from .given import DefaultFloat, DefaultInt, DefaultText
from .jobs import embedding_job, job_of
from .orders import Chooses, Handicaps
from .registry import EngineRegistry
from .responses import failed_response, response, seen_ttft_ms, vectors, wrong_vectors

_POLICY, _STRATEGY = DefaultText("fifo"), DefaultText("round_robin")
_INTERVAL_S, _FAILURES = DefaultFloat(10.0), DefaultInt(3)


class ControlPlaneManager(EngineRegistry):
    """Knows engines, decides which one takes a request, and runs requests on them.

    Made without arguments it takes its settings from the environment (``SAGELLM_CONTROL_MANAGER_…``) and keeps its
    state in Redis where ``SAGELLM_CONTROL_REDIS_URL`` names one, else in this process.

    Args:
        scheduling_policy: who is next: fifo, priority, slo_aware, adaptive, kv_aware, …, or an object of your own with
            ``handicap(request, forecast)`` (see ``scheduler.order``). With Redis it is recorded for the pools of the
            engines that are registered here.
        routing_strategy: on which engine: round_robin, least_loaded, …, or a placement of your own.
        mode: ``local`` (an engine object in ``metadata["engine_instance"]`` is called directly), ``http`` (every
            engine is reached over HTTP) or ``shared`` (like local, and a Redis URL must be set).
        health_check_interval_s: how often (s) an engine is probed; the first time at once.
        max_consecutive_failures: so many failed probes in a row make an engine's state ERROR.
        redis_url: keep the state there; several managers, gateways and workers then see the same engines.
        namespace: first part of every key in Redis.

    Raises:
        ValueError: an unknown policy, strategy or mode; lists the known ones. A Redis URL that is none.
    """

    def __init__(
        self,
        scheduling_policy: str | Handicaps = _POLICY,
        routing_strategy: str | Chooses = _STRATEGY,
        mode: str = "local",
        health_check_interval_s: float = _INTERVAL_S,
        max_consecutive_failures: int = _FAILURES,
        *,
        redis_url: str | None = None,
        namespace: str | None = None,
    ) -> None:
        made = configured(
            scheduling_policy,
            routing_strategy,
            mode,
            health_check_interval_s,
            max_consecutive_failures,
            redis_url=redis_url,
            namespace=namespace,
        )
        super().__init__(made.backend, made.settings.max_concurrent_requests)
        self._policy, self._strategy, self._mode = made.policy_name, made.strategy_name, mode
        self._settings = made.settings

    # Life

    async def start(self) -> None:
        """Watch the engines, those registered before included. May be called again."""
        await self._backend.start()

    async def stop(self) -> None:
        """Watch no more. Engine states stay as they are; ``start`` begins again."""
        await self._backend.stop()

    def get_status(self) -> dict[str, Any]:
        """How many engines there are, of which models and types, and by what they are chosen.

        With shared state ``scheduling_policy`` and ``routing_strategy`` are what the engines' pools have recorded.
        """
        status = self._backend.board.status()
        types = status.pop("engine_types")
        return status | {
            "scheduling_policy": self._policy,
            "routing_strategy": self._strategy,
            **self._backend.in_force(),
            "engine_types": types,
            "mode": self._mode,
        }

    # Requests

    async def schedule_request(
        self,
        request_id: str,
        trace_id: str,
        model_id: str,
        prompt: str = "",
        max_tokens: int = 512,
        priority: RequestPriority = RequestPriority.NORMAL,
        request_type: RequestType = RequestType.LLM_CHAT,
        deadline_ms: float | None = None,
    ) -> SchedulingDecision:
        """Reserve a place on an engine for a request that the caller runs itself; ``complete_request`` gives it back.

        SCHEDULED with an engine; QUEUED with the place in line, where no engine has room: call again with the same id
        (or ``wait_scheduled``) to learn more; FAILED, where no engine of the model takes requests.

        Args:
            deadline_ms: from now; one that waits longer fails.

        Raises:
            TypeError, ValueError: prompt, max_tokens or deadline_ms are none.
        """
        return await self._backend.schedule(
            scheduling_wish(
                request_id=request_id,
                trace_id=trace_id,
                model_id=model_id,
                prompt=prompt,
                max_tokens=max_tokens,
                priority=priority,
                request_type=request_type,
                deadline_ms=deadline_ms,
            )
        )

    async def wait_scheduled(self, request_id: str, timeout_s: float | None = None) -> SchedulingDecision | None:
        """The decision on a QUEUED request once there is one, or after the timeout (s); None: it does not wait."""
        return await self._backend.wait(request_id, timeout_s)

    def complete_request(self, request_id: str, engine_id: str) -> None:
        """Give back what ``schedule_request`` reserved for this request; anything else is ignored."""
        self._backend.complete(request_id, engine_id)

    async def execute_request(self, request: Request, timeout_s: float | None = None) -> Response:
        """Run a request; what goes wrong is an error in the response.

        Read from ``request.metadata``: ``priority``, ``tenant``, ``slo_deadline_ms`` (objective for the first token)
        and ``timeout_ms``.

        Args:
            timeout_s: from now to the answer, waiting and retries included.

        Raises:
            TypeError: it is no request.
        """
        began, request, job = time.monotonic(), protocol_request(request), None
        try:
            job = job_of(request, stream=False, timeout_s=timeout_s, default_timeout_s=self._settings.request_timeout_s)
            reply = await self._backend.ask(job)
            made = response(request, reply.body, began)
            self._note(job, seen_ttft_ms(made, began))
            return made
        except RequestFailed as failure:
            self._note_failure(job, failure)
            return failed_response(request, failure)

    async def stream_request(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """Run a request and give its events: one start, deltas, one end; what goes wrong is an error in the end.

        Raises:
            TypeError: it is no request.
        """
        writer, job = EventWriter(protocol_request(request)), None
        try:
            job = job_of(request, stream=True, timeout_s=None, default_timeout_s=self._settings.request_timeout_s)
            async with aclosing(self._backend.stream(job)) as pieces:
                async for piece in pieces:
                    for event in writer.feed(piece):
                        yield event
            last = writer.end()
            self._note(job, writer.ttft_ms)
        except RequestFailed as failure:
            self._note_failure(job, failure)
            last = writer.fail(failure)
        for event in last:
            yield event

    async def get_embeddings(
        self, texts: list[str], model_id: str = "default", trace_id: str | None = None
    ) -> list[list[float]]:
        """A vector a text. ``model_id`` ``"default"``: of any model.

        Raises:
            ValueError: there is no engine for it, or its answer is not what was asked for.
            EngineClientError: the engine failed.
            TypeError: the texts are none.
        """
        if not (texts := texts_to_embed(texts)):
            return []
        model = self._backend.board.embedding_model(model_id)
        job = embedding_job(texts, model, trace_id, self._settings.request_timeout_s)
        try:
            reply = await self._backend.ask(job)
        except RequestFailed as failure:
            # All that is left of the engine's answer, maybe behind a worker and Redis, is what was wrong with it.
            wrong = WRONG_VECTORS in str(failure)
            raise (wrong_vectors(len(texts)) if wrong else client_error(failure)) from failure
        return vectors(reply.body, len(texts))

    def _note_failure(self, job: Job | None, failure: RequestFailed) -> None:
        if job is not None and failure.code == ErrorCode.DEADLINE_EXCEEDED:
            self._note(job, float("inf"))

    def _note(self, job: Job, ttft_ms: float) -> None:
        if job.slo_ms and self._backend.board.of_model(job.model):
            self._backend.misses.note(job.model, ttft_ms > job.slo_ms)
