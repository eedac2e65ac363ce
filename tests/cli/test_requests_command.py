"""``requests list``: what is not shown is said."""

from __future__ import annotations

import asyncio
import json

import pytest

from ..pool_driver import PoolDriver
from .conftest import Command


@pytest.mark.parametrize(
    ("words", "shown", "said"),
    [
        ((), 6, "1 on engines, 3 waiting, 2 queued\n"),
        (("--limit", "6"), 6, "1 on engines, 3 waiting, 2 queued\n"),
        (("--limit", "4"), 4, "… 2 more; --limit\n1 on engines, 3 waiting, 2 queued\n"),
        (("--limit", "1", "--state", "waiting"), 1, "… 2 more; --limit\n1 on engines, 3 waiting, 2 queued\n"),
        (("--limit", "1", "--state", "queued"), 1, "… 1 more; --limit\n1 on engines, 3 waiting, 2 queued\n"),
        (("--limit", "1", "--state", "finished"), 1, "… more; --limit\n1 on engines, 3 waiting, 2 queued\n"),
        (("--limit", "1", "--json"), 1, "… 5 more; --limit\n"),
        (("--json",), 6, ""),
    ],
)
async def test_what_is_cut_off_is_said(
    words: tuple[str, ...], shown: int, said: str, command: Command, pool: PoolDriver
) -> None:
    await pool.engine("e1", slots=3)
    await pool.running("ended", "ended too", "runs")
    await pool.finish("ended")
    await pool.finish("ended too")
    await pool.waiting("first", "second", "third")
    await pool.accept("new", "newer")
    where = ("--redis-url", pool.store.settings.url, "--redis-namespace", pool.store.settings.namespace)
    done = await asyncio.to_thread(command, "requests", "list", *where, *words)
    assert (done.exit_code, done.stderr) == (0, said)
    assert len(json.loads(done.stdout) if "--json" in words else done.stdout.splitlines()[1:]) == shown
