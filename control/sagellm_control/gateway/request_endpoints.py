"""A request by its id: how it stands and why, its events from any position on, its result, its end.

Any gateway answers for any request, as all of it is in Redis.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from ..client.errors import UnknownRequest
from ..client.queue_client import QueueClient
from ..client.submission import Submission
from ..scheduler.explain import explain_request
from ..store.steps.cancel import CancelResult
from ..store.views import RequestView, find_requests
from ..wire.request import is_request_id
from ..wire.states import RequestState
from .answering import AnswerWriter
from .endpoints import OpenAIEndpoints
from .errors import bad_request, unknown_request
from .event_ids import EventId, EventNumbering
from .patience import patience_by_record
from .queue_position import QueuePosition, queue_position
from .request_headers import value_of
from .settings import GatewaySettings

LAST_EVENT_ID = "Last-Event-ID"
TIMES = ("arrived_ms", "assigned_ms", "started_ms", "finished_ms")


class RequestEndpoints:
    """What a client that comes back asks."""

    def __init__(self, queue: QueueClient, settings: GatewaySettings, openai: OpenAIEndpoints) -> None:
        self._queue = queue
        self._settings = settings
        self._openai = openai

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/requests/{id}", self.status),
            web.delete("/v1/requests/{id}", self.cancel),
            # Not to be asked by HEAD, which would wait for the whole answer to throw it away.
            web.get("/v1/requests/{id}/events", self.events, allow_head=False),
            web.get("/v1/requests/{id}/result", self.result, allow_head=False),
            web.get("/v1/requests/{id}/explain", self.explain),
        ]

    async def status(self, request: web.Request) -> web.Response:
        """Where the request is, its place in the line while it waits, and how it ended."""
        view = await self._find(request)
        place = None
        if view.state is RequestState.WAITING:
            place = await queue_position(self._queue, view.pool, view.request_id)
        return web.json_response(_shown(view, place))

    async def cancel(self, request: web.Request) -> web.Response:
        """End the request wherever it is. Sent again it changes nothing."""
        view = await self._find(request)
        result = await self._queue.cancel(view.request_id, pool=view.pool)
        if result is CancelResult.UNKNOWN:
            raise unknown_request(view.request_id)
        return web.json_response({"id": view.request_id, "object": "request.cancellation", "result": str(result)})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The answer as server-sent events with ids, behind ``Last-Event-ID``; 204: there is nothing behind it."""
        view = await self._find(request)
        after: EventId | None = None
        if (text := value_of(request.headers, LAST_EVENT_ID)) is not None:
            try:
                after = EventId.parse(text)
            except ValueError:
                raise bad_request(
                    f"{LAST_EVENT_ID} must be the id of an event of this request, such as 1-7.", LAST_EVENT_ID
                ) from None
        return await self._answer(request, view, after, stream=True)

    async def result(self, request: web.Request) -> web.StreamResponse:
        """The whole answer, as the request itself would have had it; waits for it."""
        return await self._answer(request, await self._find(request), None, stream=False)

    async def explain(self, request: web.Request) -> web.Response:
        """Why the request waits, or why it is where it is: an ``Explanation``. Admins may ask it of any request.

        It is made of the rows of now, with the very policy objects that the schedulers use.
        """
        view = await self._find(request, admin_too=True)
        explanation = await explain_request(self._queue.store, view)
        if (place := await queue_position(self._queue, explanation.pool, view.request_id)) is not None:
            explanation.position, explanation.wait_s = place.position, place.wait_s
        return web.json_response(explanation.model_dump())

    async def _answer(
        self, request: web.Request, view: RequestView, after: EventId | None, *, stream: bool
    ) -> web.StreamResponse:
        position = after.entry_before if after else (0, 0)
        try:
            async with self._queue.answer(view.request_id, pool=view.pool, after=position) as answer:
                writer = AnswerWriter(
                    self._queue,
                    answer,
                    request,
                    self._openai.closing,
                    patience=patience_by_record(view),
                    keepalive_s=self._settings.keepalive_s,
                    headers={"X-Request-ID": view.request_id},
                    numbering=EventNumbering(after),
                )
                response = await (writer.write_stream(always=True) if stream else writer.write_whole())
        except UnknownRequest:
            raise unknown_request(view.request_id) from None
        except (asyncio.CancelledError, ConnectionError):
            self._leave(view)
            raise
        if writer.stopped:
            self._leave(view)
        return response

    def _leave(self, view: RequestView) -> None:
        # Who came back once may do so again.
        self._queue.abandon(Submission(view.request_id, view.pool, existed=True), patient=True)

    async def _find(self, request: web.Request, *, admin_too: bool = False) -> RequestView:
        caller = self._openai.authenticate(request)
        request_id = request.match_info["id"]
        if not is_request_id(request_id):
            raise unknown_request(request_id)
        for view in await find_requests(self._queue.store, request_id):
            if caller is None or view.tenant == caller.tenant or (admin_too and caller.admin):
                return view
        # Another tenant's is not told from one that does not exist.
        raise unknown_request(request_id)


def _shown(view: RequestView, place: QueuePosition | None) -> dict[str, Any]:
    fields = view.fields
    shown: dict[str, Any] = {
        "id": view.request_id,
        "object": "request",
        "state": str(view.state),
        "model": fields.get("model") or view.pool,
        "kind": view.kind,
        "priority": view.priority,
        "stream": fields.get("stream") == "1",
        "attempt": view.attempt,
        "position": place.position if place else None,
        "wait_s": place.wait_s if place else None,
        "engine": view.engine or None,
        "outcome": view.outcome or None,
    }
    # Seconds since the epoch, as OpenAI's 'created' has them.
    shown |= {name.removesuffix("_ms") + "_at": float(fields[name]) / 1000 for name in TIMES if fields.get(name)}
    if view.state is RequestState.FINISHED:
        shown["status"] = int(fields.get("status") or 0) or None
        shown["message"] = fields.get("message")
    return shown
