"""By class, and packed into the KV caches."""

from __future__ import annotations

from .priority import PriorityOrder


class KvAwareOrder(PriorityOrder):
    """The ranks of ``priority``, with patience: what does not fit into any engine's KV cache lets others pass.

    Room for a request is prompt + expected output (tokens) in the engine's budget (``OpenEngines.fits``). First fit in
    the order of the ranks: a request that fits nowhere is passed by smaller ones, but only by those that rank up to
    the patience behind it; from then on an engine is kept free for it (``OpenEngines.keep_free``), so it is served as
    soon as that engine has finished enough of what it runs. Other orders have the same rule and little patience.

    Args:
        patience_ms: how far behind (ms of rank) those may rank that pass.
        aging_ms, least_share, decode_share: as for ``priority``.
    """

    name = "kv_aware"

    def __init__(
        self, aging_ms: float, patience_ms: float, least_share: float = 0.0, *, decode_share: float = 0.05
    ) -> None:
        super().__init__(aging_ms, least_share, decode_share=decode_share)
        self.patience_ms = patience_ms
