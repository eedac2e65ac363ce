"""The three OpenAI endpoints: read, submit, answer."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from redis.exceptions import RedisError

from ..client.errors import NoEngineReady, QueueError, QueueFull, RequestConflict, TooLate
from ..client.queue_client import QueueClient
from ..client.submission import Submission
from ..wire.priority import RequestPriority
from ..wire.states import Outcome, RequestKind
from . import metrics
from .answering import AnswerWriter
from .api_keys import Caller
from .api_keys_file import ApiKeysFile
from .closing import Closing
from .errors import GATEWAY_STOPPING, ApiError, Limits, from_queue, unavailable
from .event_ids import EventNumbering
from .patience import Patience, patience_of_retry
from .rate_limits import rate_limits, rate_limits_when_full
from .receiving import receive
from .request_body import RequestBody, read_body
from .request_headers import RequestHeaders, idempotent_id, read_headers, value_of
from .request_ids import name_request, new_id, write_ids
from .settings import GatewaySettings
from .time_limits import limits_of_request

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Wanted:
    """A request that has been read and checked."""

    headers: RequestHeaders
    body: RequestBody
    raw: bytes
    tenant: str
    priority: RequestPriority
    weight: float = 1.0


class OpenAIEndpoints:
    """Takes OpenAI requests through the queue."""

    def __init__(
        self,
        queue: QueueClient,
        settings: GatewaySettings,
        keys: ApiKeysFile | None,
    ) -> None:
        self._queue = queue
        self._settings = settings
        self._keys = keys
        self.stopping = False
        """The gateway is going down."""
        self.closing = Closing()

    def routes(self) -> list[web.RouteDef]:
        """The paths, with and without what a client may have put behind the base URL."""
        paths = {
            "/v1/chat/completions": self.chat,
            "/v1/completions": self.completion,
            "/v1/embeddings": self.embedding,
        }
        return [web.post(path, handler) for path, handler in paths.items()]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, RequestKind.CHAT)

    async def completion(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, RequestKind.COMPLETION)

    async def embedding(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, RequestKind.EMBEDDING)

    def authenticate(self, request: web.Request) -> Caller | None:
        """Whose key the request carries; None where no keys are asked for.

        Raises:
            ApiError: 401; 400 where it carries several.
        """
        if self._keys is None:
            return None
        scheme, _, key = (value_of(request.headers, "Authorization") or "").partition(" ")
        caller = self._keys.find(key.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise ApiError(
                401,
                "A valid API key is needed: Authorization: Bearer KEY.",
                code="invalid_api_key",
                param=None,
            )
        return caller

    async def _handle(self, request: web.Request, kind: RequestKind) -> web.StreamResponse:
        began = time.monotonic()
        metrics.open_requests.number += 1
        priority, outcome = "", "internal_error"
        wanted: _Wanted | None = None
        try:
            async with self.closing.endable() as limit:
                with self.closing.reading(limit):
                    wanted = await self._read(request, kind)
                priority = wanted.priority.label
                submission = await self._submit(request, wanted, kind)
            response, outcome = await self._answer(request, wanted, submission, kind, began)
            return response
        except QueueError as error:
            refusal = self._refusal(error, wanted)
            outcome = refusal.code
            raise refusal from error
        except ApiError as error:
            outcome = error.code
            raise
        except (RedisError, OSError) as error:
            if isinstance(error, ConnectionResetError):
                outcome = str(Outcome.CANCELLED)
                raise
            refusal = unavailable(error)
            outcome = refusal.code
            raise refusal from error
        except asyncio.CancelledError:
            outcome = str(Outcome.CANCELLED)
            raise
        finally:
            metrics.open_requests.number -= 1
            metrics.requests(kind, priority, outcome).inc()
            metrics.duration(kind, priority).observe(time.monotonic() - began)

    def _refusal(self, error: QueueError, wanted: _Wanted | None) -> ApiError:
        """What the client is told: with the limit that it is about, and how much of the queue is left."""
        refusal = from_queue(error)
        if wanted is None:
            return refusal
        refusal.name_limit(self._limits(wanted))
        pools, limits = self._queue.pools, self._queue.limits
        if (pool := pools.models.get(wanted.body.model)) is None:
            return refusal
        if isinstance(error, QueueFull):
            refusal.headers |= rate_limits_when_full(pools, limits, pool, error)
        elif isinstance(error, NoEngineReady | TooLate):
            refusal.headers |= rate_limits(pools, limits, pool)
        return refusal

    async def _read(self, request: web.Request, kind: RequestKind) -> _Wanted:
        caller = self.authenticate(request)
        headers = read_headers(request.headers)
        raw = await receive(request, self._settings.body_timeout_s)
        body = read_body(raw, kind)
        priority = headers.priority
        if caller is not None:
            priority = max(priority, caller.max_priority)
        tenant, weight = (caller.tenant, caller.weight) if caller is not None else (body.user, 1.0)
        return _Wanted(headers, body, raw, tenant, priority, weight)

    async def _submit(self, request: web.Request, wanted: _Wanted, kind: RequestKind) -> Submission:
        headers, body = wanted.headers, wanted.body
        key = headers.idempotency_key
        request_id = idempotent_id(wanted.tenant, key) if key else headers.request_id or new_id()
        name_request(request, request_id)
        try:
            return await self._queue.submit(
                body.model,
                wanted.raw,
                kind=kind,
                request_id=request_id,
                id_is_new=not (key or headers.request_id),
                checked=True,
                idempotent=key is not None,
                priority=wanted.priority,
                tenant=wanted.tenant,
                stream=body.stream,
                timeout_s=self._timeout_s(headers),
                slo_s=headers.slo_s,
                prompt_tokens=body.prompt_tokens,
                max_tokens=body.max_tokens,
                trace=headers.trace,
                continuable=body.continuable and headers.mid_stream_retry and self._settings.mid_stream_retry,
                # Whoever sends a key comes back when it likes; everybody else does so soon, or never.
                orphan_grace_s=None if key else self._settings.orphan_grace_s,
                tpot_slo_ms=round((headers.tpot_slo_s or 0) * 1000),
                reject_late=headers.reject_late,
                session=headers.session,
                prefix=body.prefix,
                weight=wanted.weight,
                queue_ttl_ms=self._settings.queue_ttl_ms(wanted.priority),
            )
        except RequestConflict as error:
            if key is None:
                raise
            raise ApiError(
                422,
                "This Idempotency-Key was used for a request with another body.",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            ) from error

    async def _answer(
        self, request: web.Request, wanted: _Wanted, submission: Submission, kind: RequestKind, began: float
    ) -> tuple[web.StreamResponse, str]:
        headers = wanted.headers
        echoed = write_ids(submission.request_id, headers.trace)
        echoed["X-Request-Priority"] = wanted.priority.name
        if wanted.priority != headers.priority:
            echoed["X-Request-Priority-Asked"] = headers.priority.name
        patience = Patience(began + self._timeout_s(headers), partial(self._limits, wanted))
        try:
            async with self._queue.answer(submission.request_id, pool=submission.pool) as answer:
                echoed |= rate_limits(self._queue.pools, self._queue.limits, submission.pool)
                if submission.existed:
                    patience = await patience_of_retry(self._queue.store, submission, patience)
                writer = AnswerWriter(
                    self._queue,
                    answer,
                    request,
                    self.closing,
                    patience=patience,
                    keepalive_s=self._settings.keepalive_s,
                    headers=echoed,
                    numbering=EventNumbering() if wanted.headers.event_ids else None,
                )
                response = await (writer.write_stream() if wanted.body.stream else writer.write_whole())
        except BaseException:  # whatever it was: nobody gets an answer here any more
            self._leave(wanted.headers, submission)
            raise
        if writer.stopped:
            self._leave(wanted.headers, submission)
        self._observe(wanted, kind, began, writer)
        return response, GATEWAY_STOPPING if writer.stopped else str(writer.outcome)

    def _leave(self, headers: RequestHeaders, submission: Submission) -> None:
        # A client with an Idempotency-Key may come back for its answer.
        if headers.idempotency_key is None:
            # One that asked for event ids may come back for the rest, and so may whoever did not leave by itself.
            self._queue.abandon(submission, patient=headers.event_ids or self.closing.ended)

    def _observe(self, wanted: _Wanted, kind: RequestKind, began: float, writer: AnswerWriter) -> None:
        if writer.first_byte_at is None:
            return
        ttft_s = writer.first_byte_at - began
        metrics.ttft(kind, wanted.priority.label).observe(ttft_s)
        if wanted.headers.slo_s is not None and ttft_s > wanted.headers.slo_s:
            metrics.SLO_VIOLATIONS.labels(kind, wanted.priority.label).inc()

    def _limits(self, wanted: _Wanted) -> Limits:
        pools = self._queue.pools
        depth = pools.depth(pools.models.get(wanted.body.model, ""))
        return limits_of_request(wanted.headers, wanted.priority, self._settings, depth.settings if depth else {})

    def _timeout_s(self, headers: RequestHeaders) -> float:
        return headers.timeout_s or self._settings.request_timeout_s
