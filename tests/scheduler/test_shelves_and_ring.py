"""Shelves and the ring: what the views of the engines are made of."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.scheduler.ring import Ring
from sagellm_control.scheduler.shelf import Shelves, level_of

moves = st.lists(st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.integers(-3, 3))), max_size=60)


@given(moves, st.integers(-4, 4))
def test_shelves_are_a_stable_sort(steps: list[tuple[str, int | None]], start: int) -> None:
    shelves, model = Shelves(), dict[str, int]()
    for engine, level in steps:
        if level is None:
            shelves.remove(engine)
            model.pop(engine, None)
            continue
        if model.get(engine) != level:
            model.pop(engine, None)
            model[engine] = level
        shelves.put(engine, level)
    assert len(shelves) == len(model)
    assert shelves.lowest == min(model.values(), default=None)
    assert list(shelves.ascending()) == sorted(model, key=lambda engine: model[engine])
    assert list(shelves.descending()) == sorted(model, key=lambda engine: -model[engine])
    below = [engine for engine in sorted(model, key=lambda engine: -model[engine]) if model[engine] <= start]
    assert list(shelves.descending(start)) == below


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_levels_keep_the_order(one: float, other: float) -> None:
    assert (level_of(one) <= level_of(other)) or one > other
    assert level_of(math.inf) > level_of(1e12)


def test_levels_tell_a_tenth_apart() -> None:
    assert all(level_of(value * 1.1) > level_of(value) for value in (10.0, 1e3, 1e6, 1e9))


def ring_of(*engines: str) -> Ring:
    ring = Ring()
    for engine in engines:
        ring.add(engine)
    return ring


def homes(ring: Ring) -> dict[str, str]:
    return {key: next(ring.walk(key, 1)) for key in (f"key{n}" for n in range(2000))}


def test_an_engine_that_comes_takes_only_its_share() -> None:
    ring = ring_of(*(f"e{n}" for n in range(9)))
    before = homes(ring)
    ring.add("new")
    after = homes(ring)
    moved = {key for key in before if before[key] != after[key]}
    assert {after[key] for key in moved} == {"new"}
    assert len(moved) < 2 * 2000 / 10
    ring.remove("new")
    assert homes(ring) == before


def test_the_shares_are_not_far_apart() -> None:
    shares = Counter(homes(ring_of(*(f"e{n}" for n in range(8)))).values())
    assert len(shares) == 8
    assert max(shares.values()) < 1.8 * 2000 / 8


def test_a_walk_meets_everybody_once() -> None:
    ring = ring_of("a", "b", "c")
    ring.add("a")
    assert sorted(ring.walk("key", 10)) == ["a", "b", "c"]
    assert len(list(ring.walk("key", 2))) == 2
    assert list(Ring().walk("key", 3)) == []
    ring.remove("never there")
    assert len(ring) == 3
