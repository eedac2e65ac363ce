"""Puts the gateway together."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import HttpVersion11, web
from redis.exceptions import RedisError

from .endpoints import OpenAIEndpoints
from .errors import ApiError, unavailable
from .receiving import check_head
from .request_ids import request_id_of, returned_ids
from .settings import GatewaySettings

log = logging.getLogger(__name__)

_BODY_LEFT = ("body_too_large", "body_timeout", "invalid_body", "unsupported_encoding")
"""What is left of the body is not worth reading, cannot be read, or does not come."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Endpoints(Protocol):
    """Paths, and what answers them."""

    def routes(self) -> list[web.RouteDef]: ...


def make_app(settings: GatewaySettings, openai: OpenAIEndpoints, *others: Endpoints) -> web.Application:
    """The application: routes, and errors in OpenAI's form whatever goes wrong."""

    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return _refuse(request, error)
        except web.HTTPException as error:
            response = _refuse(request, _http_error(request, error))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except ConnectionError:
            return _cut(request)  # the client has gone
        except (RedisError, OSError) as error:
            return _refuse(request, unavailable(error))
        except Exception:
            log.exception("%s %s failed (request %s)", request.method, request.path, request_id_of(request))
            return _refuse(request, ApiError(500, "The gateway failed unexpectedly.", code="internal_error"))

    async def say_goodbye(_: web.Request, response: web.StreamResponse) -> None:
        if openai.stopping:
            # So that the client sends its next request elsewhere.
            response.force_close()
            response.headers["Connection"] = "close"

    app = web.Application(middlewares=[errors], client_max_size=settings.max_body_bytes)
    app.on_response_prepare.append(say_goodbye)
    for part in (openai, *others):
        for route in part.routes():
            kwargs = route.kwargs | {"expect_handler": _expect}
            app.add_routes([web.RouteDef(route.method, route.path, route.handler, kwargs)])
    return app


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer an ``Expect`` header; aiohttp's own way quotes it, and fails at what is no text."""
    if request.headers["Expect"].strip().lower() != "100-continue":
        return _refuse(request, ApiError(417, "Expect must be 100-continue.", code="invalid_value", param="Expect"))
    try:
        check_head(request)
    except ApiError as error:
        return _refuse(request, error)
    if request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it is no part of the response
    return None


def _cut(request: web.Request) -> web.Response:
    """Close the connection; aiohttp then finds nobody to whom it could write the response."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _refuse(request: web.Request, error: ApiError) -> web.Response:
    if request.writer.output_size > 0:
        # A stream has begun: a second response would be written into it.
        return _cut(request)
    response = error.response()
    if error.code in _BODY_LEFT:
        response.force_close()
    response.headers.update(returned_ids(request))
    return response


def _http_error(request: web.Request, error: web.HTTPException) -> ApiError:
    if error.status == 404:
        return ApiError(404, f"There is no {request.method} {request.path}.", code="unknown_path")
    if error.status == 405:
        return ApiError(405, f"{request.path} does not take {request.method}.", code="method_not_allowed")
    return ApiError(error.status, error.reason, code="http_error")
