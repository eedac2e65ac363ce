"""``up``: the whole system on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import json
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from ..settings import masked
from ..stopping import terminal_signals
from ..wire.keys import DEFAULT_NAMESPACE
from .failures import BadSettings
from .options import LOG_FLAGS, REDIS_FLAGS, FlagsOf, Loaded, SettingsCommand, takes_settings

if TYPE_CHECKING:
    from .system import Running, System


_SAME_SIGNAL_S = 0.5
"""A script that runs us passes on what the terminal has sent us already: that is not a second Ctrl-C."""

_MODEL_HELP = "Model of the simulated engine; with --engine: serve only this one of the engines' models."


@click.command(cls=SettingsCommand)
@takes_settings(
    FlagsOf("gateway", "Gateway", only=("host", "port", "api_keys")),
    FlagsOf("worker", "Engines", only=("engine",)),
    FlagsOf("engine", "Engines", only=("models",), describe={"models": _MODEL_HELP}),
    FlagsOf("up", "Processes"),
    REDIS_FLAGS,
    LOG_FLAGS,
)
def up(loaded: Loaded) -> None:
    """Run everything on this machine, with a simulated engine if none is given.

    That is: Valkey, the gateway, schedulers, and a worker for all engines, or several. Requests and answers are kept in
    an append-only file in the data folder: what waits when you stop goes on when you start again. But an HTTP
    request without an Idempotency-Key is cancelled when its gateway is gone and its client has not come back within
    gateway.orphan_grace_s (30 s). Where a Redis URL is set, that server is used and no Valkey started. All else
    that a process can be set to is set by environment or TOML file, as for the single commands. Ctrl-C stops all
    in order; a second Ctrl-C at once.

    \b
    Examples:
      sagellm-control up
      sagellm-control up --port 8000 --data-dir /var/lib/sagellm --engine http://127.0.0.1:8001
      sagellm-control up --redis-url redis://127.0.0.1:6379/0 --schedulers 4 --model my-model
    """
    _tell_redis(loaded)
    asyncio.run(_up(loaded))


def _tell_redis(loaded: Loaded) -> None:
    """Say which server is used where it is not our own: the variable may be left from another one."""
    origin, folder = loaded.origins.get(("redis", "url")), loaded.origins.get(("up", "data_dir"))
    if origin is None:
        return
    if origin.kind == "environment" and folder is not None and folder.kind == "flag":
        raise BadSettings(
            [
                f"{folder.name} is for an embedded Valkey, and {origin.name} names another server: "
                "unset the variable, or confirm the server with --redis-url"
            ]
        )
    where = masked("", loaded.settings.redis.url)
    _tell(f"Using Redis at {where} ({origin.name}); no embedded server")


async def _up(loaded: Loaded) -> None:
    from .system import System

    system = System(loaded, _tell)
    work = asyncio.create_task(_serve(loaded, system), name="up")
    loop = asyncio.get_running_loop()
    interrupted: float | None = None

    def stop() -> None:
        nonlocal interrupted
        if interrupted is not None:
            if loop.time() - interrupted > _SAME_SIGNAL_S:
                _tell("Stopping at once.")
                system.kill()
            return
        interrupted = loop.time()
        _tell("Stopping: gateway, workers, schedulers, then the rest. Ctrl-C again stops at once.")
        work.cancel()

    for number in terminal_signals():
        loop.add_signal_handler(number, stop)
    try:
        await work
    except asyncio.CancelledError:
        if interrupted is None:
            raise
        _tell("Stopped.")


async def _serve(loaded: Loaded, system: System) -> None:
    _tell(f"Starting in {loaded.settings.up.data_dir.absolute()} …")
    async with system.up() as running:
        gateway = loaded.settings.gateway
        _introduce(running, gateway.api_keys is not None, gateway.orphan_grace_s)
        for view in {view.engine_id: view for view in running.drained}.values():
            undo = f"sagellm-control engines drain {view.engine_id} --undo{_redis_flags(running)}"
            _tell(f"Engine {view.engine_id} is drained, and gets requests again after: {undo}")
        if not running.engines:
            _tell(f"No engine is ready yet; waiting for {', '.join(running.urls)}")
            first = (await system.wait_for_engines(running))[0]
            _tell(f"Engine {first.engine_id} is ready: {first.pool}, {first.slots} slots")
        await asyncio.Event().wait()


def _tell(line: str, *, err: bool = True) -> None:
    """Say it on the terminal, if that is still there: the system goes on, and stops, without one."""
    with suppress(OSError):
        click.echo(line, err=err)


def _redis_flags(running: Running) -> str:
    """What a command needs to find this system."""
    flags = f" --redis-url {masked('', running.redis_url)}"
    return flags if running.namespace == DEFAULT_NAMESPACE else f"{flags} --redis-namespace {running.namespace}"


def _introduce(running: Running, needs_key: bool, grace_s: float) -> None:
    model = running.models[0] if running.models else "MODEL"
    models = f"model{'s' * (len(running.models) > 1)} {', '.join(running.models) or 'MODEL'}"
    engines = f"{running.ready} of {len(running.urls)} engine{'s' * (len(running.urls) > 1)}"
    redis = _redis_flags(running)
    key = "-H 'Authorization: Bearer KEY' " if needs_key else ""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
    _tell(
        f"""
Ready: {running.gateway_url}/v1   {models}, {engines}

A streamed chat:
  curl -N {running.gateway_url}/v1/chat/completions {key}-H 'Content-Type: application/json' \\
    -d {shlex.quote(body)}
The same straight through the queue, ahead of what is less urgent:
  sagellm-control enqueue{redis} --priority HIGH "Hello"
What the engines do, and what waits:
  sagellm-control engines list{redis}
  sagellm-control requests list{redis}
Figures for Prometheus:
  curl {running.gateway_url}/metrics

Ctrl-C stops everything. What waits is kept: HTTP requests without an Idempotency-Key for {grace_s:g} s, or longer if
their client comes back.
""",
        err=False,
    )
