"""Any interleaving of steps, by actors whose knowledge may be old, keeps invariants 1, 2, 3, 5 and 7."""

from __future__ import annotations

import secrets

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm_control.store.connect import Store

from ..clock import Clock
from ..leaks import delete_namespace, leaked_keys
from ..pool_driver import PoolDriver
from .actors import Actors

# As often as it takes for most runs to get requests on engines.
STEPS = (
    *("accept", "hurry") * 4,
    *("take", "admit", "look", "assign", "claim", "append", "finish", "requeue", "cancel") * 2,
    *("reclaim", "register", "renew", "retire", "drain", "keep", "wait"),
)

step = st.tuples(st.sampled_from(STEPS), st.integers(0, 7), st.integers(0, 3))


@settings(
    max_examples=60,
    deadline=None,
    # The pool is made anew for each example, and its keys are deleted after it.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(step, min_size=10, max_size=50))
async def test_any_interleaving_keeps_the_pool_sound(
    store: Store, clock: Clock, steps: list[tuple[str, int, int]]
) -> None:
    actors = Actors(PoolDriver(store, clock, f"model-{secrets.token_hex(3)}"))
    await actors.start()
    try:
        for name, i, j in steps:
            await actors.do(name, i, j)
        assert await leaked_keys(store) == []
    finally:
        await delete_namespace(store)
