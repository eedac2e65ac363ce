"""`docker-compose.yml` against the real command line: what it starts parses, and the parts find each other."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from sagellm_control.settings import Settings

from .conftest import ParseCommand

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("sagellm-control"))
VALKEY_PORT = 6379


@dataclass(frozen=True)
class Listening:
    """Where a service listens in its container."""

    host: str
    port: int
    path: str
    """What its health check asks for."""
    drain_s: float
    """How long what is open may take to finish when it stops."""


def words(service: str) -> list[str]:
    """A service's command as its container gets it."""
    command = SERVICES[service]["command"]
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command]


def settings_of(service: str, parse: ParseCommand) -> Settings:
    """What the command line makes of a service's command and environment."""
    return parse(words(service), SERVICES[service].get("environment", {}))


def listening(service: str, settings: Settings) -> Listening:
    """Where a service of ours listens."""
    match words(service)[0]:
        case "gateway":
            gateway = settings.gateway
            return Listening(gateway.host, gateway.port, "/ready", gateway.shutdown_s)
        case "scheduler":
            return Listening(settings.scheduler.metrics_host, settings.scheduler.metrics_port, "/metrics", 0)
        case "worker":
            worker = settings.worker
            return Listening(worker.metrics_host, worker.metrics_port, "/metrics", worker.drain_s)
        case role:
            assert role == "engine"
            return Listening(settings.engine.host, settings.engine.port, "/health", 0)


def seconds(text: str) -> float:
    """A duration such as ``45s``; the file uses no other unit."""
    assert text.endswith("s")
    return float(text.removesuffix("s"))


def test_it_has_the_parts_that_it_promises() -> None:
    replicas = {name: service.get("deploy", {}).get("replicas", 1) for name, service in SERVICES.items()}
    count: dict[str, int] = dict.fromkeys(("gateway", "scheduler", "worker", "engine"), 0)
    for name in OURS:
        count[words(name)[0]] += replicas[name]
    assert count == {"gateway": 1, "scheduler": 2, "worker": 2, "engine": 2}
    assert set(SERVICES) - set(OURS) == {"valkey"}


@pytest.mark.parametrize("name", OURS)
def test_its_command_and_environment_are_taken(name: str, parse_command: ParseCommand) -> None:
    settings_of(name, parse_command)  # raises for an unknown flag, variable or value


@pytest.mark.parametrize("name", OURS)
def test_its_health_check_asks_where_the_command_listens(name: str, parse_command: ParseCommand) -> None:
    where = listening(name, settings_of(name, parse_command))
    kind, *command = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD"
    assert command[:2] == ["python", "-c"]
    compile(command[2], name, "exec")
    assert f"urlopen('http://127.0.0.1:{where.port}{where.path}', timeout=" in command[2]
    assert where.port, "port 0 is any free one, or no metrics at all"


@pytest.mark.parametrize("name", OURS)
def test_it_is_given_time_to_drain(name: str, parse_command: ParseCommand) -> None:
    where = listening(name, settings_of(name, parse_command))
    assert seconds(SERVICES[name]["stop_grace_period"]) > where.drain_s + 5


@pytest.mark.parametrize("name", OURS)
def test_it_finds_the_others(name: str, parse_command: ParseCommand) -> None:
    settings = settings_of(name, parse_command)
    needs = SERVICES[name].get("depends_on", {})
    if words(name)[0] == "engine":
        return
    redis = urlsplit(settings.redis.url)
    assert (redis.hostname, redis.port) == ("valkey", VALKEY_PORT)
    assert needs["valkey"]["condition"] == "service_healthy"
    for url in settings.worker.engine:
        parts = urlsplit(url)
        assert parts.hostname in SERVICES
        engine = listening(parts.hostname, settings_of(parts.hostname, parse_command))
        assert (engine.host, engine.port) == ("0.0.0.0", parts.port)
        assert needs[parts.hostname]["condition"] == "service_healthy"


def test_every_engine_has_one_worker(parse_command: ParseCommand) -> None:
    engines = [name for name in OURS if words(name)[0] == "engine"]
    served = [
        urlsplit(url).hostname
        for name in OURS
        if words(name)[0] == "worker"
        for url in settings_of(name, parse_command).worker.engine
    ]
    assert sorted(served, key=str) == sorted(engines)


def test_only_the_gateway_is_published_and_on_loopback(parse_command: ParseCommand) -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    gateway = settings_of("gateway", parse_command).gateway
    assert published == {"gateway": [f"127.0.0.1:8000:{gateway.port}"]}
    assert gateway.host == "0.0.0.0", "a container's own loopback cannot be published"


def test_who_brings_work_in_stops_first() -> None:
    # Services stop before those that they depend on.
    needs = SERVICES["gateway"]["depends_on"]
    assert {name for name in OURS if words(name)[0] in ("scheduler", "worker")} <= set(needs)


def test_valkey_is_as_the_store_wants_it() -> None:
    valkey = SERVICES["valkey"]
    _, _, version = valkey["image"].partition("valkey/valkey:")
    assert int(version.partition(".")[0]) >= 8
    command = words("valkey")
    assert command[0] == "valkey-server"
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--maxmemory-policy"] == "noeviction"
    assert "--port" not in given
    assert valkey["volumes"] == ["valkey-data:/data"]
    assert "valkey-data" in COMPOSE["volumes"]
    assert "valkey-cli ping" in valkey["healthcheck"]["test"][1]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_it_has_what_every_service_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    check = service["healthcheck"]
    assert {"test", "interval", "timeout", "retries", "start_period"} == set(check)
    assert seconds(check["timeout"]) > 4, "the checks themselves give up after 4 s"
    for other, how in service.get("depends_on", {}).items():
        assert other in SERVICES
        assert how["condition"] in ("service_healthy", "service_started")


def test_one_service_builds_the_image_and_the_others_never_pull_it() -> None:
    builders = [name for name in OURS if "build" in SERVICES[name]]
    assert builders == ["gateway"]
    assert SERVICES["gateway"]["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}
    for name in OURS:
        assert SERVICES[name]["pull_policy"] == ("build" if name in builders else "never")
        assert SERVICES[name]["image"] == SERVICES["gateway"]["image"]
