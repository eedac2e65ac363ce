"""Where the KV cache has room."""

from __future__ import annotations

import logging
from typing import Any

from ..types import EngineInfo, RequestMetadata, RequestStatus, SchedulingDecision
from ..wire.request import CHARACTERS_A_TOKEN
from .base import NO_ENGINE, SchedulingPolicy

log = logging.getLogger(__name__)

RETRY_MS = 5000.0
"""Estimated wait for KV room."""


class KVAwareSchedulingPolicy(SchedulingPolicy):
    """Admits a request where its KV tokens fit, on the engine whose KV cache is emptiest; small requests first.

    Args:
        scheduler_bridge: kept for programs that pass one; it is not called.
        max_kv_tokens_per_engine: KV budget (tokens) of each engine.
        kv_budget_threshold: fraction of the budget above which a warning is logged.
    """

    def __init__(
        self,
        scheduler_bridge: Any = None,
        max_kv_tokens_per_engine: int = 4096,
        kv_budget_threshold: float = 0.8,
    ) -> None:
        super().__init__()
        self._scheduler_bridge = scheduler_bridge
        self._max_kv_tokens_per_engine = max_kv_tokens_per_engine
        self._kv_budget_threshold = kv_budget_threshold
        self._engine_kv_usage: dict[str, int] = {}

    @property
    def name(self) -> str:
        return "kv_aware"

    def schedule(
        self,
        request: RequestMetadata,
        candidates: list[EngineInfo],
        pending_requests: list[RequestMetadata],
    ) -> SchedulingDecision:
        if not any(engine.is_accepting_requests for engine in candidates):
            return SchedulingDecision(request.request_id, None, status=RequestStatus.FAILED, reason=NO_ENGINE)
        tokens = self._estimate_kv_tokens(request)
        engine = self._select_best_engine(candidates, tokens)
        if engine is None:
            return SchedulingDecision(
                request.request_id,
                None,
                estimated_wait_ms=RETRY_MS,
                status=RequestStatus.PENDING,
                reason=f"No engine with sufficient KV budget ({tokens} tokens needed)",
            )
        usage = self._engine_kv_usage.get(engine.engine_id, 0) + tokens
        self._engine_kv_usage[engine.engine_id] = usage
        used = self._utilization(usage)
        if used > self._kv_budget_threshold:
            log.warning("engine %s: %.0f%% of its KV budget is in use", engine.engine_id, 100 * used)
        return SchedulingDecision(
            request.request_id,
            engine.engine_id,
            reason=f"KV-aware: selected engine {engine.engine_id} (KV util: {used:.2%}, "
            f"available: {self._max_kv_tokens_per_engine - usage} tokens)",
        )

    def reorder_queue(self, requests: list[RequestMetadata]) -> list[RequestMetadata]:
        return sorted(requests, key=self._estimate_kv_tokens)

    def release_request(self, request_id: str, engine_id: str, kv_tokens: int) -> None:
        """Give back the KV tokens that a request held."""
        if engine_id in self._engine_kv_usage:
            self._engine_kv_usage[engine_id] = max(0, self._engine_kv_usage[engine_id] - kv_tokens)

    def get_kv_utilization_metrics(self) -> dict[str, float]:
        """Engine id -> fraction of its budget that is in use."""
        return {engine_id: self._utilization(usage) for engine_id, usage in self._engine_kv_usage.items()}

    def _estimate_kv_tokens(self, request: RequestMetadata) -> int:
        prompt = request.prompt_tokens or len(request.prompt or "") // CHARACTERS_A_TOKEN
        return prompt + request.max_tokens

    def _can_admit_request(self, engine_id: str, kv_tokens: int) -> bool:
        return self._engine_kv_usage.get(engine_id, 0) + kv_tokens <= self._max_kv_tokens_per_engine

    def _select_best_engine(self, candidates: list[EngineInfo], kv_tokens: int) -> EngineInfo | None:
        fitting = [
            engine
            for engine in candidates
            if engine.is_accepting_requests and self._can_admit_request(engine.engine_id, kv_tokens)
        ]
        usage = self._engine_kv_usage
        return min(fitting, key=lambda e: (usage.get(e.engine_id, 0), e.active_requests), default=None)

    def _utilization(self, usage: int) -> float:
        return usage / self._max_kv_tokens_per_engine if self._max_kv_tokens_per_engine else 1.0
