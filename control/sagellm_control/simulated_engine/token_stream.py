"""The hot path: one answer's tokens, written to the connection as the batcher makes them.

aiohttp's StreamResponse.write is a coroutine; the batcher has one loop for all answers and cannot wait for
each. So a token is framed here and handed to the transport, which sends it when this turn of the loop ends.
"""

from __future__ import annotations

import asyncio

from .reply import TokenEvents


class TokenStream:
    """Writes the events of one choice; give its `emit` to the batcher."""

    __slots__ = ("_chunked", "_events", "_fixed_size", "_pieces", "_prefix", "_suffix", "_transport")

    def __init__(self, transport: asyncio.Transport, events: TokenEvents, *, chunked: bool) -> None:
        self._transport = transport
        self._events = events
        self._prefix = events.prefix
        self._suffix = events.suffix
        self._pieces = events.pieces
        self._fixed_size = len(events.prefix) + len(events.suffix)
        self._chunked = chunked

    def emit(self, index: int) -> None:
        transport = self._transport
        if transport.is_closing():  # the client has gone; its handler is about to abort this answer
            return
        piece = self._pieces[index]
        if index == 0 or not self._chunked:
            self._emit_unusual(index, piece)
            return
        size = self._fixed_size + len(piece)
        transport.write(b"%x\r\n%b%b%b\r\n" % (size, self._prefix, piece, self._suffix))

    def _emit_unusual(self, index: int, piece: bytes) -> None:
        """The first token has a prefix of its own; a connection of HTTP/1.0 knows no chunks."""
        prefix = self._events.first_prefix if index == 0 else self._prefix
        event = prefix + piece + self._suffix
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)
