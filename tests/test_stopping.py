"""Which signals stop a command; waiting for an event for no longer than so long."""

from __future__ import annotations

import asyncio
import signal

from sagellm_control.stopping import is_set_within, run_until, terminal_signals


def test_a_closed_terminal_stops_a_command_unless_it_is_to_go_on_without() -> None:
    inherited = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert terminal_signals() == (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert terminal_signals() == (signal.SIGINT, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, inherited)


async def test_an_event_is_waited_for_and_no_longer_than_asked() -> None:
    event = asyncio.Event()
    assert not await is_set_within(event, 0.001)
    assert not await is_set_within(event, -1)
    asyncio.get_running_loop().call_soon(event.set)
    assert await is_set_within(event, 3600)
    assert await is_set_within(event, -1), "what is set need not be waited for"


async def test_what_is_to_stop_does_not_begin() -> None:
    stop, begun = asyncio.Event(), False

    async def work() -> None:
        nonlocal begun
        begun = True

    stop.set()
    await run_until(stop, work())
    assert not begun
