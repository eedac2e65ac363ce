"""describe: whose word of a model is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sagellm_control.store.inspect import pool_depth
from sagellm_control.store.steps.engines import retire_engine
from sagellm_control.store.steps.pools import describe, forget_pool, withdraw
from sagellm_control.wire.engine import EngineRow
from sagellm_control.wire.states import EngineState

from ..pool_driver import PoolDriver


async def engine(pool: PoolDriver, name: str, **cards: str) -> EngineRow:
    row = replace(await pool.engine(name, models=(pool.name, "lora")), cards=tuple(cards.items()))
    await describe(pool.store, row)
    return row


async def cards(pool: PoolDriver) -> dict[str, str]:
    return (await pool_depth(pool.store, pool.name)).cards


async def test_the_first_engines_word_is_kept_while_it_is_held(pool: PoolDriver) -> None:
    first = await engine(pool, "e1", lora='{"n":1}')
    second = await engine(pool, "e2", lora='{"n":2}', **{pool.name: '{"n":2}'})
    assert await cards(pool) == {"lora": '{"n":1}', pool.name: '{"n":2}'}
    await retire_engine(pool.store, pool.name, "e1", first.worker, EngineState.STOPPED, "")
    assert (await cards(pool))["lora"] == '{"n":1}', "until another one repeats its own"
    await describe(pool.store, second)
    assert (await cards(pool))["lora"] == '{"n":2}'


@pytest.mark.parametrize("now", ['{"n":3}', ""])
async def test_an_engine_may_change_its_word(pool: PoolDriver, now: str) -> None:
    row = await engine(pool, "e1", lora='{"n":1}')
    await describe(pool.store, replace(row, cards=(("lora", now),)))
    assert await cards(pool) == ({"lora": now} if now else {})


async def test_an_engine_that_has_a_model_no_more_has_no_word_of_it(pool: PoolDriver) -> None:
    first = await engine(pool, "e1", lora='{"n":1}')
    second = await engine(pool, "e2", lora='{"n":2}')
    await describe(pool.store, replace(first, models=(pool.name,), cards=()), ["lora"])
    await describe(pool.store, second)
    assert await cards(pool) == {"lora": '{"n":2}'}


async def test_it_goes_with_the_name_and_with_the_pool(pool: PoolDriver) -> None:
    row = await engine(pool, "e1", lora='{"n":1}', **{pool.name: '{"n":2}'})
    await retire_engine(pool.store, pool.name, "e1", row.worker, EngineState.STOPPED, "")
    await withdraw(pool.store, pool.name, ["lora"])
    assert await cards(pool) == {pool.name: '{"n":2}'}
    await pool.store.commands.delete(pool.keys.engines)
    assert await forget_pool(pool.store, pool.name)
    assert await cards(pool) == {}
