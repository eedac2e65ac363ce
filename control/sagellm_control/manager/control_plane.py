"""The control plane as a library."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sagellm_protocol import ErrorCode, Request, Response, StreamEvent

from ..types import EngineInfo, EngineState, RequestPriority, RequestType, SchedulingDecision
from .arguments import client_error, engine_state, protocol_request, scheduling_wish, texts_to_embed
from .backend import Job, RequestFailed
from .configured import configured
from .events import EventWriter
from .given import DefaultFloat, DefaultInt, DefaultText
from .jobs import embedding_job, job_of
from .load import ModelLoad, load_of
from .orders import Chooses, Handicaps
from .responses import failed_response, response, seen_ttft_ms, vectors

_POLICY, _STRATEGY = DefaultText("fifo"), DefaultText("round_robin")
_INTERVAL_S, _FAILURES = DefaultFloat(10.0), DefaultInt(3)


class ControlPlaneManager:
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
        ValueError: an unknown policy, strategy or mode; lists the known ones.
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
        self._policy, self._strategy, self._mode = made.policy_name, made.strategy_name, mode
        self._settings = made.settings
        self._backend = made.backend

    # Life

    async def start(self) -> None:
        """Watch the engines, those registered before included. May be called again."""
        await self._backend.start()

    async def stop(self) -> None:
        """Watch no more. Engine states stay as they are; ``start`` begins again."""
        await self._backend.stop()

    # Engines

    def register_engine(
        self,
        engine_id: str,
        model_id: str,
        host: str,
        port: int,
        engine_kind: str = "llm",
        metadata: dict[str, Any] | None = None,
    ) -> EngineInfo:
        """A new engine, STARTING until it answers its first health probe.

        Args:
            metadata: kept as it is. Read from it: ``max_concurrent_requests`` (256), ``kv_tokens`` (that its cache
                holds; no bound), ``instance_type`` (general), ``wire`` (found out), ``api_key``,
                ``pre_verified_healthy`` (READY at once), ``engine_instance``.

        Raises:
            ValueError, TypeError: the id is taken, or the metadata is wrong.
        """
        if metadata is not None and not isinstance(metadata, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"metadata must be a dict, not {metadata!r}")
        if engine_id in self._backend.board.engines:
            raise ValueError(f"Engine {engine_id} already registered")
        info = EngineInfo(
            engine_id=engine_id,
            model_id=model_id,
            host=host,
            port=port,
            engine_kind=engine_kind,
            metadata=metadata if metadata is not None else {},
        )
        self._backend.board.add(info)
        try:
            self._backend.register(info)
        except BaseException:
            self._backend.board.remove(engine_id)
            raise
        return info

    def unregister_engine(self, engine_id: str) -> bool:
        """Forget an engine; what runs on it goes on. False: there is no such engine."""
        info = self._backend.board.engines.get(engine_id)
        if info is None:
            return False
        self._backend.unregister(info)
        self._backend.board.remove(engine_id)
        if not self._backend.board.of_model(info.model_id):
            self._backend.misses.forget(info.model_id)
        return True

    def update_engine_state(self, engine_id: str, state: EngineState) -> bool:
        """Say which state an engine is in; False: there is no such engine.

        Raises:
            ValueError: ``state`` is none.
        """
        wanted = engine_state(state)
        info = self._backend.board.engines.get(engine_id)
        if info is None:
            return False
        self._backend.set_state(info, wanted)
        return True

    def get_engine(self, engine_id: str) -> EngineInfo | None:
        """The engine, live; None: there is no such engine."""
        return self._backend.board.engines.get(engine_id)

    def list_engines(self, state: EngineState | None = None) -> list[EngineInfo]:
        """All engines in the order of their registration, or those in a state."""
        engines = self._backend.board.engines.values()
        return [info for info in engines if state is None or info.state == state]

    def get_engines_for_model(self, model_id: str) -> list[EngineInfo]:
        """The engines that were registered with this model, in any state."""
        return self._backend.board.of_model(model_id)

    @property
    def engine_count(self) -> int:
        """Engines."""
        return len(self._backend.board.engines)

    @property
    def healthy_engine_count(self) -> int:
        """READY engines."""
        return sum(info.is_healthy for info in self._backend.board.engines.values())

    def get_status(self) -> dict[str, Any]:
        """How many engines there are, of which models and types, and how this manager was made."""
        status = self._backend.board.status()
        types = status.pop("engine_types")
        return status | {
            "scheduling_policy": self._policy,
            "routing_strategy": self._strategy,
            "engine_types": types,
            "mode": self._mode,
        }

    def get_load(self) -> list[ModelLoad]:
        """How busy the engines of each model are."""
        board, room = self._backend.board, self._settings.max_concurrent_requests
        return [
            load_of(model, board.of_model(model), room, self._backend.waiting(model), self._backend.misses.rate(model))
            for model in board.models
        ]

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
            scheduling_wish(request_id, trace_id, model_id, prompt, max_tokens, priority, request_type, deadline_ms)
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
            raise client_error(failure) from failure
        return vectors(reply.body, len(texts))

    def _note_failure(self, job: Job | None, failure: RequestFailed) -> None:
        if job is not None and failure.code == ErrorCode.DEADLINE_EXCEEDED:
            self._note(job, float("inf"))

    def _note(self, job: Job, ttft_ms: float) -> None:
        if job.slo_ms and self._backend.board.of_model(job.model):
            self._backend.misses.note(job.model, ttft_ms > job.slo_ms)
