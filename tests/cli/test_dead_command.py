"""``dead``: what an operator sees of what was given up, and what can be done about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from click.testing import Result

from ..pool_driver import PoolDriver
from ..store.test_dead import kill
from .conftest import Command

Dead = Callable[..., Awaitable[Result]]


@pytest.fixture
def dead(command: Command, pool: PoolDriver) -> Dead:
    async def run(*words: str) -> Result:
        where = ("--redis-url", pool.store.settings.url, "--redis-namespace", pool.store.settings.namespace)
        return await asyncio.to_thread(command, "dead", *words, *where)

    return run


@pytest.fixture
async def entry(pool: PoolDriver) -> str:
    """A dead request ``poison``, and an entry that nobody could read before it; the request's entry."""
    await pool.engine("e0")
    await pool.store.commands.xadd(pool.keys.dead, {"reason": "no id", "request": "unreadable"})
    await kill(pool, "poison")
    (last, _) = (await pool.store.commands.xrevrange(pool.keys.dead, count=1))[0]
    return last.decode()


async def test_list(dead: Dead, entry: str, pool: PoolDriver) -> None:
    lines = (await dead("list")).stdout.splitlines()
    assert lines[0].split() == [
        "ENTRY",
        "REQUEST",
        "MODEL",
        "AGE",
        "DELIVERIES",
        "FAILURES",
        "LAPSES",
        "ENGINES",
        "REASON",
    ]
    assert lines[1].split()[:3] == [entry, "poison", pool.name]
    assert " 4 " in lines[1]
    assert "unreadable" in lines[2]
    shown = json.loads((await dead("list", "--json")).stdout)
    assert [letter["request_id"] for letter in shown] == ["poison", "unreadable"]
    first = await dead("list", "--limit", "1", "--model", pool.name)
    assert "unreadable" not in first.stdout
    assert first.stderr == f"More may be behind: --before {entry}\n"
    assert "poison" not in (await dead("list", "--before", entry)).stdout


async def test_show(dead: Dead, entry: str) -> None:
    text = (await dead("show", "poison")).stdout
    for said in ("its worker died 3 times", "1 e0 engine_broken (It broke.)", "e0 e1 e2 e3", "deliveries", "4"):
        assert said in text
    assert json.loads((await dead("show", entry, "--json")).stdout)["lapses"] == 3


async def test_retry(dead: Dead, entry: str, pool: PoolDriver) -> None:
    assert (await dead("retry", "poison")).stdout == f"poison is sent again as retry-{entry}.\n"
    assert await pool.state(f"retry-{entry}") == "queued"
    again = await dead("retry", "poison")
    assert (again.exit_code, again.stderr) == (
        1,
        "Error: nothing dead has the id 'poison': see 'sagellm-control dead list'\n",
    )
    garbage = await dead("retry", "unreadable")
    assert garbage.exit_code == 1
    assert garbage.stderr.endswith("is no whole request: no id\n")
    assert (await dead("retry", "--all")).stdout == "Nothing was sent again.\n"


async def test_drop(dead: Dead, entry: str, pool: PoolDriver) -> None:
    assert (await dead("drop", entry)).stdout == "1 dropped.\n"
    assert json.loads((await dead("drop", "--all", "--json")).stdout) == {"dropped": 1}
    assert await pool.dead() == []
    assert (await dead("list")).stdout == "Nothing was given up.\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("drop",), "give the entries (or request ids), or --all"),
        (("drop", "--all", "poison"), "give the entries (or request ids), or --all"),
        (("list", "--before", "yesterday"), "'yesterday' is no entry"),
        (("list", "--model", "nope"), "no pool serves 'nope'; known: model-"),
        (("show", "nope"), "nothing dead has the id 'nope': see 'sagellm-control dead list'"),
        (("show", "cmpl-1"), "nothing dead has the id 'cmpl-1': this is the engine's id; the request's is in"),
    ],
)
async def test_what_is_wrong_is_said(dead: Dead, pool: PoolDriver, words: tuple[str, ...], said: str) -> None:
    await pool.engine()
    done = await dead(*words)
    assert done.exit_code in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
