"""What ``up`` refuses before it starts anything: settings that cannot work together."""

from __future__ import annotations

from ..embedded import require_free
from ..embedded.ports import LOOPBACK
from ..settings import Loaded, SettingsError, env_name, masked
from .own_gateway import leads_to

WILDCARDS = {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}
"""Where to reach ourselves when the gateway listens on all addresses."""


def require_that_it_can_work(loaded: Loaded, host: str, port: int) -> None:
    """See that the settings go together.

    Args:
        host, port: the gateway's.

    Raises:
        SettingsError: two of the processes are to listen on the same port, a worker would have no engine, or an engine
            is the gateway itself.
        PortInUseError: somebody listens on the gateway's port.
    """
    _require_different_ports(loaded, host, port)
    _require_engines_for_all(loaded)
    _require_other_engines(loaded, host, port)
    require_free(host, port, "--port")


def _require_different_ports(loaded: Loaded, host: str, port: int) -> None:
    """None of the processes takes another's: the second one would blame a program that is not ours."""
    settings, origins = loaded.settings, loaded.origins
    asked = [("gateway", "port", host, port, 0)]
    for section, metrics, processes in (
        ("worker", settings.worker, settings.up.workers),
        ("scheduler", settings.scheduler, settings.up.schedulers),
    ):
        if first := metrics.metrics_port:
            asked += [(section, "metrics_port", metrics.metrics_host, first + n, n) for n in range(processes)]
    if ("redis", "url") not in origins:
        asked.append(("up", "valkey_port", LOOPBACK, settings.up.valkey_port, 0))
    if not settings.worker.engine and ("engine", "port") in origins:
        asked.append(("engine", "port", LOOPBACK, settings.engine.port, 0))
    taken: list[tuple[str, int, str]] = []
    for section, field, address, number, after in asked:
        origin = origins.get((section, field))
        name = (origin.name if origin else env_name(section, field)) + f" + {after}" * bool(after)
        for other_address, other_number, other in taken:
            if 0 < number == other_number and (address == other_address or {address, other_address} & WILDCARDS.keys()):
                raise SettingsError([f"port {number} is asked for twice, by {other} and by {name}: choose another"])
        taken.append((address, number, name))


def _require_engines_for_all(loaded: Loaded) -> None:
    """An engine has one worker, so more workers than engines would be idle, unless they adopt."""
    worker, workers = loaded.settings.worker, loaded.settings.up.workers
    engines = len(set(worker.engine)) or 1
    if workers > engines and not worker.adopt:
        name, there = loaded.origins["up", "workers"].name, f"{engines} engine{'s' * (engines > 1)}"
        raise SettingsError(
            [f"{name} {workers}: there {'are' if engines > 1 else 'is'} {there}, and each has one worker"]
        )


def _require_other_engines(loaded: Loaded, host: str, port: int) -> None:
    """The gateway is no engine of its own."""
    for url in loaded.settings.worker.engine:
        if leads_to(url, host, port):
            name = loaded.origins["worker", "engine"].name
            problem = "that is this system's own gateway; name the engines behind it"
            raise SettingsError([f"{name} {masked('', url)}: {problem}"])
