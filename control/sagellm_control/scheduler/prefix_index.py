"""Which engine has which prompts cached, as far as its placements tell."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

BLOCKS_PER_ENGINE = 4096
"""Kept for an engine whose KV capacity is not known: two million tokens in blocks of 512."""
TOKENS_PER_BLOCK = 512
"""Of the gateway's blocks (2,048 characters) and of the Mooncake traces; only sizes an engine's share of the index."""


class PrefixIndex:
    """Block hash -> engines that were handed a prompt with that block, least recently used ones forgotten.

    Each engine's blocks are kept in the order in which its own cache would drop them: a prompt's blocks are touched
    from the last to the first, so the first ones stay longest, as in the radix trees of vLLM and SGLang. Hashes are
    chained (a block's hash covers all before it), so what an engine has of a prompt is always a beginning of it, and
    its length is found by bisection.

    Args:
        blocks_per_engine: capacity for an engine that has not told its own.
        engines: engines remembered at most; the one unused longest is forgotten.
    """

    def __init__(self, blocks_per_engine: int = BLOCKS_PER_ENGINE, engines: int = 10_000) -> None:
        self._blocks_per_engine = blocks_per_engine
        self._most_engines = engines
        self._capacity: dict[str, int] = {}
        self._cached: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._holders: dict[str, dict[str, None]] = {}

    @property
    def blocks(self) -> int:
        """(Block, engine) pairs that are kept."""
        return sum(map(len, self._cached.values()))

    def set_capacity(self, engine: str, kv_tokens: int) -> None:
        """The engine's KV cache holds so many tokens; 0: not known."""
        if kv_tokens:
            self._capacity[engine] = max(1, kv_tokens // TOKENS_PER_BLOCK)
            self._shrink(engine)
        else:
            self._capacity.pop(engine, None)

    def note(self, engine: str, prefix: Sequence[str]) -> list[str]:
        """The engine was handed a prompt with these blocks, the first one first; those that are new to it."""
        if not prefix:
            return []
        cached = self._cached.get(engine)
        if cached is None:
            cached = self._cached[engine] = OrderedDict()
            if len(self._cached) > self._most_engines:
                self.forget(next(iter(self._cached)))
        else:
            self._cached.move_to_end(engine)
        new: list[str] = []
        for block in reversed(prefix):
            if block in cached:
                cached.move_to_end(block)
            else:
                cached[block] = None
                self._holders.setdefault(block, {})[engine] = None
                new.append(block)
        self._shrink(engine)
        return new

    def take_back(self, engine: str, new: Sequence[str]) -> None:
        """The engine was not handed the prompt after all.

        Another prompt that was noted meanwhile and has some of these blocks too counts as having none of them: that
        costs a guess, where a block that the engine never got would let it start more work than its pace allows.
        """
        cached = self._cached.get(engine, {})
        for block in new:
            if block in cached:
                del cached[block]
                self._drop(block, engine)

    def forget(self, engine: str) -> None:
        """The engine has gone, or has started anew with an empty cache."""
        for block in self._cached.pop(engine, ()):
            self._drop(block, engine)
        self._capacity.pop(engine, None)

    def depth(self, engine: str, prefix: Sequence[str]) -> int:
        """How many blocks of the prompt, from the first on, the engine has."""
        cached = self._cached.get(engine)
        if not cached or not prefix or prefix[0] not in cached:
            return 0
        if prefix[-1] in cached:
            return len(prefix)
        low, high = 1, len(prefix) - 1  # it has `low` blocks for sure, and no more than `high`
        while low < high:
            middle = (low + high + 1) // 2
            if prefix[middle - 1] in cached:
                low = middle
            else:
                high = middle - 1
        return low

    def holders(self, prefix: Sequence[str], most: int = 8) -> list[tuple[str, int]]:
        """Engines with the longest beginnings of the prompt and how many blocks each has, the longest first.

        No more than ``most``: of a block that very many have, the ones that got it first.
        """
        found: dict[str, int] = {}
        depth = self._deepest(prefix, len(prefix), 1)
        while depth and len(found) < most:
            holders = self._holders[prefix[depth - 1]]
            if len(holders) > len(found):
                for engine in holders:
                    if engine not in found:
                        found[engine] = depth
                        if len(found) == most:
                            break
            depth = self._deepest(prefix, depth - 1, len(holders) + 1)
        return list(found.items())

    def _deepest(self, prefix: Sequence[str], longest: int, holders: int) -> int:
        # The longest beginning, of up to `longest` blocks, that so many engines have; 0: none. The longer, the fewer.
        low, high = 0, longest
        while low < high:
            middle = (low + high + 1) // 2
            if len(self._holders.get(prefix[middle - 1], ())) >= holders:
                low = middle
            else:
                high = middle - 1
        return low

    def _shrink(self, engine: str) -> None:
        cached = self._cached.get(engine)
        capacity = self._capacity.get(engine, self._blocks_per_engine)
        while cached and len(cached) > capacity:
            block, _ = cached.popitem(last=False)
            self._drop(block, engine)

    def _drop(self, block: str, engine: str) -> None:
        holders = self._holders[block]
        del holders[engine]
        if not holders:
            del self._holders[block]
