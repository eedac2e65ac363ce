"""``GET /v1/requests/{id}/explain``: why a request waits, or why it is where it is."""

from __future__ import annotations

from aiohttp import web

from ..client.errors import UnknownRequest
from ..client.queue_client import QueueClient
from ..scheduler.explain import explain_request
from .endpoints import OpenAIEndpoints
from .errors import ApiError
from .queue_position import queue_position


class ExplainEndpoint:
    """Answers from the rows of now, with the very policy objects that the schedulers use."""

    def __init__(self, queue: QueueClient, openai: OpenAIEndpoints) -> None:
        self._queue = queue
        self._openai = openai

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/requests/{id}/explain", self.explain)]

    async def explain(self, request: web.Request) -> web.Response:
        """200 with an ``Explanation``; 404: there is no such request of this caller."""
        caller = self._openai.authenticate(request)
        request_id = request.match_info["id"]
        unknown = ApiError(404, str(UnknownRequest(request_id)), code="unknown_request", param="id")
        explanation = await explain_request(self._queue.store, request_id)
        if explanation is None or (caller is not None and not caller.admin and caller.tenant != explanation.tenant):
            raise unknown
        if (place := await queue_position(self._queue, explanation.pool, request_id)) is not None:
            explanation.position, explanation.wait_s = place.position, place.wait_s
        return web.json_response(explanation.model_dump())
