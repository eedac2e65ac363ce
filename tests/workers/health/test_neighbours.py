"""Who counts as somebody that takes an engine's requests."""

from __future__ import annotations

from typing import Any

import pytest

from sagellm_control.store.connect import Store
from sagellm_control.wire.engine import EngineRole
from sagellm_control.wire.states import EngineState
from sagellm_workers.health import neighbours
from sagellm_workers.health.neighbours import others_serve

from ...pool_driver import PoolDriver

P, D, G = EngineRole.PREFILL, EngineRole.DECODE, EngineRole.GENERAL


@pytest.mark.parametrize(
    ("mine", "others", "serve"),
    [
        ({}, [], False),
        ({}, [{}], True),
        ({}, [{"state": EngineState.ERROR}], False),
        ({}, [{"state": EngineState.DRAINING}, {"limit": 0}], True),
        ({}, [{"last_resort": True}], False),
        ({}, [{"kinds": ("embedding",)}], False),
        ({"kinds": ("chat",)}, [{"kinds": ("embedding", "chat")}], True),
        ({"kinds": ("chat",)}, [{}], True),
        ({"role": P}, [{"role": D}], False),
        ({"role": P}, [{"role": G}], True),
        ({"role": D}, [{"role": P}, {"role": D}], True),
        ({"role": G}, [{"role": P}], False),
        ({"role": G}, [{"role": P}, {"role": D}], True),
    ],
    ids=str,
)
async def test_who_takes_what_an_engine_takes(
    store: Store,
    pool: PoolDriver,
    monkeypatch: pytest.MonkeyPatch,
    mine: dict[str, Any],
    others: list[dict[str, Any]],
    serve: bool,
) -> None:
    monkeypatch.setattr(neighbours, "BATCH", 1)
    row = await pool.engine("me", **mine)
    for number, other in enumerate(others):
        await pool.engine(f"other-{number}", **other)
    assert await others_serve(store, row) is serve
