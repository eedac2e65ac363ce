"""The limit that ended a request, as the error says it: a header and its value, or a setting."""

from __future__ import annotations

from collections.abc import Mapping

from ..scheduler.policy_settings import PolicySettings
from ..wire.priority import RequestPriority
from ..wire.states import Reason
from .errors import DEADLINE_EXCEEDED, Limits
from .request_headers import RequestHeaders
from .settings import GatewaySettings


def limits_of_request(
    headers: RequestHeaders, priority: RequestPriority, settings: GatewaySettings, pool: Mapping[str, str]
) -> Limits:
    """Those of a request that was sent to this gateway.

    Args:
        pool: the settings of its pool.
    """
    limits = {
        DEADLINE_EXCEEDED: _of_header("X-Request-Timeout-Ms", headers.timeout_s)
        or (f"The gateway's --request-timeout-s is {settings.request_timeout_s:g}.", None)
    }
    if slo := _of_header("X-SLO-Deadline-Ms", headers.slo_s):
        limits[Reason.TOO_LATE] = slo
    elif pool.get("ttft_slo_ms"):
        limits[Reason.TOO_LATE] = (f"The model's policy has ttft_slo_ms={pool['ttft_slo_ms']}.", None)
    target_ms = pool.get("overload_target_ms") or PolicySettings.model_fields["overload_target_ms"].default
    limits[Reason.OVERLOADED] = (f"The model's policy has overload_target_ms={target_ms}.", None)
    if ttl_ms := settings.queue_ttl_ms(priority):
        limits[Reason.QUEUE_TTL] = (f"The gateway's --queue-ttl is {priority.name}={ttl_ms / 1000:g}.", None)
    return limits


def limits_of_record(record: Mapping[str, str]) -> Limits:
    """Those of a request that was sent to any gateway; who set them is not recorded."""
    names = {DEADLINE_EXCEEDED: "timeout_ms", Reason.TOO_LATE: "slo_ms", Reason.QUEUE_TTL: "queue_ttl_ms"}
    return {code: (f"The limit was {record[name]} ms.", None) for code, name in names.items() if record.get(name)}


def _of_header(name: str, seconds: float | None) -> tuple[str, str] | None:
    return None if seconds is None else (f"{name} is {round(seconds * 1000)}.", name)
