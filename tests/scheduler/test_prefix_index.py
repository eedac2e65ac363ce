"""The prefix index against a plain model of it."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.scheduler.prefix_index import PrefixIndex

engines = st.sampled_from(["a", "b", "c"])


def chain(path: str) -> tuple[str, ...]:
    """Chained hashes: each block's name covers all before it."""
    return tuple(path[: n + 1] for n in range(len(path)))


prefixes = st.text("xyz", min_size=1, max_size=6).map(chain)


class Model:
    """The same, by trying everything."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.cached: dict[str, OrderedDict[str, None]] = {}

    def note(self, engine: str, prefix: tuple[str, ...]) -> None:
        cached = self.cached.setdefault(engine, OrderedDict())
        for block in reversed(prefix):
            cached[block] = None
            cached.move_to_end(block)
        while len(cached) > self.capacity:
            cached.popitem(last=False)

    def depth(self, engine: str, prefix: tuple[str, ...]) -> int:
        return next((n for n, b in enumerate(prefix) if b not in self.cached.get(engine, ())), len(prefix))


@given(st.integers(1, 20), st.lists(st.tuples(engines, prefixes), max_size=60), prefixes)
def test_it_is_what_an_lru_cache_of_each_engine_would_hold(
    capacity: int, notes: list[tuple[str, tuple[str, ...]]], asked: tuple[str, ...]
) -> None:
    index, model = PrefixIndex(capacity), Model(capacity)
    for engine, prefix in notes:
        index.note(engine, prefix)
        model.note(engine, prefix)
    depths = {engine: model.depth(engine, asked) for engine in "abc"}
    assert {engine: index.depth(engine, asked) for engine in "abc"} == depths
    assert dict(index.holders(asked)) == {engine: depth for engine, depth in depths.items() if depth}
    found = [depth for _, depth in index.holders(asked)]
    assert found == sorted(found, reverse=True)
    assert index.blocks <= 3 * capacity


def test_the_longest_first_and_no_more_than_asked_for() -> None:
    index = PrefixIndex()
    for number in range(50):
        index.note(f"e{number}", chain("abc"))
    index.note("deep", chain("abcdef"))
    assert index.holders(chain("abcdef"), most=3)[0] == ("deep", 6)
    assert [depth for _, depth in index.holders(chain("abcdef"), most=3)] == [6, 3, 3]
    assert index.holders((), 3) == []
    assert index.holders(chain("zzz"), 3) == []


def test_what_was_not_handed_over_after_all() -> None:
    index = PrefixIndex()
    index.note("a", chain("abc"))
    new = index.note("a", chain("abcxy"))
    assert index.depth("a", chain("abcxy")) == 5
    index.take_back("a", new)
    assert (index.depth("a", chain("abcxy")), index.blocks) == (3, 3)
    index.take_back("a", new)
    index.take_back("never seen", new)
    assert index.holders(chain("abcxy")) == [("a", 3)]


def test_an_engine_that_has_gone_is_forgotten() -> None:
    index = PrefixIndex()
    index.note("a", chain("abc"))
    index.forget("a")
    index.forget("a")
    assert (index.blocks, index.holders(chain("abc")), index.depth("a", chain("abc"))) == (0, [], 0)


def test_capacity_follows_the_engines_own() -> None:
    index = PrefixIndex(blocks_per_engine=100)
    index.note("a", chain("abcdefgh"))
    index.set_capacity("a", 4 * 512)
    assert index.depth("a", chain("abcdefgh")) == 4
    index.set_capacity("a", 0)
    index.note("a", chain("abcdefgh"))
    assert index.depth("a", chain("abcdefgh")) == 8


def test_memory_is_bounded_in_engines_too() -> None:
    index = PrefixIndex(engines=10)
    for number in range(100):
        index.note(f"e{number}", chain("ab"))
    assert index.blocks == 20
    assert index.depth("e99", chain("ab")) == 2
    assert index.depth("e0", chain("ab")) == 0
