"""How the board shows engines that other programs have registered, or workers serve by themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit

from ..store.views import EngineView
from ..types import EngineInfo
from ..wire.registration import Registration


def from_registration(item: Registration) -> EngineInfo:
    """As its program described it."""
    return EngineInfo(
        item.engine_id,
        item.model_id,
        item.host,
        item.port,
        engine_kind=item.engine_kind,
        created_at=_time(item.created_at),
        metadata=dict(item.metadata),
    )


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # others may have written anything, or nothing
        return datetime.now(UTC)


def from_row(view: EngineView) -> EngineInfo:
    """As its worker describes it."""
    parts = urlsplit(view.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return EngineInfo(
        view.engine_id,
        view.pool,
        parts.hostname or "",
        port,
        metadata={"url": view.url, "max_concurrent_requests": view.slots},
    )
