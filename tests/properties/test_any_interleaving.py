"""Any interleaving of steps, by actors whose knowledge may be old, keeps the eight invariants after each step."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Generator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from sagellm_control.store.connect import Store
from sagellm_control.store.settings import RedisSettings

from ..clock import Clock
from ..leaks import delete_namespace, leaked_keys
from ..pool_driver import PoolDriver
from .actors import Actors

BOUNDED = settings(
    max_examples=40,
    stateful_step_count=50,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


# As often as it takes for most runs to get requests on engines.
GATEWAY = (*("accept",) * 4, *("accept_at_once",) * 3, "attach", "detach", "cancel")
SCHEDULER = (*("hurry",) * 3, "take", "admit", "look", "look", "assign", "assign", "reclaim")
WORKER = ("claim", *("append",) * 3, "finish", "requeue", "requeue", "advance")
OTHERS = ("renew", "renew", "register", "retire", "mend", "mend", "keep", "wait", "drain")

WHICH, HOW = st.integers(0, 7), st.integers(0, 3)


class Interleaving(RuleBasedStateMachine):
    """One pool, two engines, and everybody who may change anything in it. A rule is one step of ``Actors``."""

    runner: ClassVar[asyncio.Runner]
    redis: ClassVar[RedisSettings]

    def __init__(self) -> None:
        super().__init__()
        clock = Clock()
        self.store = Store(self.redis, now=clock)
        self.actors = Actors(PoolDriver(self.store, clock, f"model-{secrets.token_hex(3)}"))
        self.runner.run(self.actors.start())

    @initialize(requests=st.integers(0, 8), at_once=st.integers(0, 2))
    def begin(self, requests: int, at_once: int) -> None:
        # In some runs nobody is ahead of the first ones, and all engines become full.
        for i in range(at_once):
            self._do("accept_at_once", 2 * i, 0)
        for i in range(requests):
            self._do("accept", i, 1)

    @rule(step=st.sampled_from(GATEWAY), i=WHICH, j=HOW)
    def gateway(self, step: str, i: int, j: int) -> None:
        self._do(step, i, j)

    @rule(step=st.sampled_from(SCHEDULER), i=WHICH, j=HOW)
    def scheduler(self, step: str, i: int, j: int) -> None:
        self._do(step, i, j)

    @precondition(lambda self: bool(self.actors.held))
    @rule(step=st.sampled_from(WORKER), i=WHICH, j=HOW)
    def worker(self, step: str, i: int, j: int) -> None:
        self._do(step, i, j)

    # Twice, so that requests get on engines in most runs, and back.
    scheduler_again, worker_again = scheduler, worker

    @rule(step=st.sampled_from(OTHERS), i=WHICH, j=HOW)
    def somebody(self, step: str, i: int, j: int) -> None:
        self._do(step, i, j)

    def _do(self, step: str, i: int, j: int) -> None:
        self.runner.run(self.actors.do(step, i, j))

    def teardown(self) -> None:
        self.runner.run(self._end())

    async def _end(self) -> None:
        try:
            await self.actors.rest()
            assert await leaked_keys(self.store) == []
        finally:
            await self.actors.listener.close()
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
