"""Waits for a place on an engine of this process."""

from __future__ import annotations

import asyncio

from ..types import EngineInfo
from ..wire.request import Arrival
from .failures import objective_failure, queue_full
from .line import Ticket
from .local_queue import ModelQueue

Place = tuple[EngineInfo, Ticket]
"""An engine, and what was taken of it."""


async def wait_for_place(queue: ModelQueue, arrival: Arrival, max_waiting: int) -> Place | None:
    """A place, when it is this request's turn; None: no READY engine takes it, or the last of them has gone.

    Raises:
        RequestFailed: so many wait already, or it is too late for it and it wanted rather not to be served then.
    """
    if not queue.serves(arrival):
        return None
    ticket = queue.ticket(arrival)
    engine_id = queue.take(ticket)
    if engine_id is not None:
        return queue.engine(engine_id), ticket
    if len(queue) >= max_waiting and not arrival.excluded:  # what an engine had is owed another try
        raise queue_full(queue.model, len(queue))
    turn: asyncio.Future[EngineInfo | None] = asyncio.get_running_loop().create_future()

    def granted(name: str | None) -> None:
        info = queue.engine(name) if name is not None else None
        if not turn.done():
            turn.set_result(info)
        elif info is not None:
            queue.give_back(info, ticket)

    ticket.granted = granted
    queue.wait(ticket)
    try:
        info = await turn
    except asyncio.CancelledError:
        queue.leave(ticket)
        if turn.done() and not turn.cancelled() and (info := turn.result()) is not None:
            queue.give_back(info, ticket)
        raise
    if info is None and ticket.refused:
        raise objective_failure(arrival.slo_ms)
    return (info, ticket) if info is not None else None
