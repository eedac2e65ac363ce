"""Any interleaving of steps, by actors whose knowledge may be old, keeps the eight invariants after each step."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Generator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings

from ..clock import Clock
from ..leaks import delete_namespace, leaked_keys
from ..pool_driver import PoolDriver
from .actors import Actors

BOUNDED = settings(
    max_examples=50,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def _step(name: str) -> Callable[..., Any]:
    def take(self: Interleaving, i: int, j: int) -> None:
        self.runner.run(self.actors.do(name, i, j))

    take.__name__ = name
    return rule(i=st.integers(0, 7), j=st.integers(0, 3))(take)


class Interleaving(RuleBasedStateMachine):
    """One pool, two engines, and everybody who may change anything in it. Each rule is one step of ``Actors``."""

    runner: ClassVar[asyncio.Runner]
    redis: ClassVar[RedisSettings]

    def __init__(self) -> None:
        super().__init__()
        clock = Clock()
        self.store = Store(self.redis, now=clock)
        self.actors = Actors(PoolDriver(self.store, clock, f"model-{secrets.token_hex(3)}"))
        self.runner.run(self.actors.start())

    # Several times over what it takes for most runs to get requests on engines.
    accept, accept_again, accept_more = _step("accept"), _step("accept"), _step("accept")
    hurry, hurry_again, hurry_more = _step("hurry"), _step("hurry"), _step("hurry")
    take, reclaim, admit, look, assign = (_step(name) for name in ("take", "reclaim", "admit", "look", "assign"))
    claim, append, append_more, finish = (_step(name) for name in ("claim", "append", "append", "finish"))
    requeue, cancel, attach, detach = (_step(name) for name in ("requeue", "cancel", "attach", "detach"))
    register, renew, retire, drain = (_step(name) for name in ("register", "renew", "retire", "drain"))
    keep, mend, wait = (_step(name) for name in ("keep", "mend", "wait"))

    def teardown(self) -> None:
        self.runner.run(self._end())

    async def _end(self) -> None:
        try:
            await self.actors.rest()
            assert await leaked_keys(self.store) == []
        finally:
            await self.actors.close()
            await delete_namespace(self.store)
            await self.store.close()


@pytest.fixture
def machine(redis_url: str) -> Generator[type[Interleaving], None, None]:
    """The machine on the server of this test, in a namespace of its own."""
    with asyncio.Runner() as runner:
        Interleaving.runner = runner
        Interleaving.redis = RedisSettings(url=redis_url, namespace=f"test-{secrets.token_hex(5)}")
        yield Interleaving


def test_any_interleaving_keeps_the_invariants(machine: type[Interleaving]) -> None:
    run_state_machine_as_test(machine, settings=BOUNDED)
