"""An engine's prefix cache: the blocks of prompts that it can still use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class PrefixCache:
    """The blocks used last, at most so many.

    Args:
        blocks: most that it keeps; 0: it caches nothing.
    """

    def __init__(self, blocks: int) -> None:
        self._most = blocks
        self._blocks: dict[str, None] = {}  # the one used longest ago first

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: str) -> bool:
        return block in self._blocks

    def matched(self, prefix: Sequence[str]) -> int:
        """How many of the first blocks it has."""
        count = 0
        for block in prefix:
            if block not in self._blocks:
                break
            count += 1
        return count

    def use(self, prefix: Sequence[str]) -> None:
        """Keep these, and forget what was used longest ago.

        The last block counts as the oldest of them: without the blocks before it, it would be of no use.
        """
        if not self._most:
            return
        blocks = self._blocks
        for block in _backwards(prefix, self._most):
            blocks.pop(block, None)
            blocks[block] = None
        while len(blocks) > self._most:
            del blocks[next(iter(blocks))]

    def clear(self) -> None:
        """As after a restart."""
        self._blocks.clear()


def _backwards(prefix: Sequence[str], most: int) -> Iterable[str]:
    return reversed(prefix[:most])
