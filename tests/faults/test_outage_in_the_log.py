"""What the processes log while Redis is away."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from sagellm_control.store.settings import RedisSettings

from ..flow.asking import chat, expected_text
from ..flow.conftest import StartEngine
from ..flow.in_process import WORKER, in_process_system
from ..waiting import wait_until
from .tcp_proxy import TcpProxy
from .test_redis_away import whole_text


async def test_an_outage_is_one_line_for_each_thing_that_cannot_be_done(
    start_engine: StartEngine, proxied: RedisSettings, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = await start_engine()
    worker = WORKER.model_copy(update={"lease_s": 1.0})
    async with in_process_system(proxied, [engine.url], worker=worker) as system:
        assert await whole_text(system, chat("before", max_tokens=2, stream=True)) == expected_text("before", 2)
        await proxy.refuse()
        # By then everything has been tried several times.
        await wait_until(lambda: "the lease may have lapsed" in caplog.text)
        await wait_until(lambda: "cannot look at the pools" in caplog.text)
        await proxy.listen()
        await wait_until(lambda: "cannot look at the pools: that is over" in caplog.text)  # until then it refuses
        assert await whole_text(system, chat("after", max_tokens=2, stream=True)) == expected_text("after", 2)
        await wait_until(lambda: "cannot renew the lease: that is over" in caplog.text)
    told = Counter(
        (record.name, *(arg if isinstance(arg, str) else type(arg) for arg in record.args or ()))
        for record in caplog.records
        if record.levelno == logging.WARNING
    )
    # A connection of before may still be found dead when others are well again.
    over = Counter((r.name, r.args[0]) for r in caplog.records if r.msg.endswith(": that is over") and r.args)
    assert {what: times for what, times in told.items() if times > 1 + over[what[0], what[1]]} == {}
