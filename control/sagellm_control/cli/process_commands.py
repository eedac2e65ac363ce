"""The commands that run one process each: ``gateway``, ``scheduler``, ``worker``, ``engine``."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine

import click

from ..embedded.ports import require_free
from .logs import configure_logging
from .options import LOG_FLAGS, REDIS_FLAGS, FlagsOf, Loaded, SettingsCommand, takes_settings


def serve(process: Coroutine[object, object, None]) -> None:
    """Run a process on uvloop until it ends; its ``run`` minds SIGTERM and SIGINT itself."""
    import uvloop

    # What was imported stays: the collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process)


@click.command(cls=SettingsCommand)
@takes_settings(FlagsOf("gateway", "Gateway"), REDIS_FLAGS, LOG_FLAGS)
def gateway(loaded: Loaded) -> None:
    """Take OpenAI requests over HTTP, queue them, and stream the answers back.

    Run as many as you like behind a load balancer; they share nothing but Redis. SIGTERM stops it gently: it
    takes no new requests and finishes the streams that are open.

    \b
    Examples:
      sagellm-control gateway
      sagellm-control gateway --host 0.0.0.0 --port 8000 --redis-url redis://queue:6379/0
    """
    from ..gateway.process import run

    require_free(loaded.settings.gateway.host, loaded.settings.gateway.port, "--port")
    configure_logging(loaded.settings.log, "gateway")
    serve(run(loaded.settings.gateway, loaded.settings.redis))


@click.command(cls=SettingsCommand)
@takes_settings(FlagsOf("scheduler", "Scheduler"), REDIS_FLAGS, LOG_FLAGS)
def scheduler(loaded: Loaded) -> None:
    """Rank what waits and give it to engines that have room.

    Any number can run; none is the leader, and if one dies the others go on without a pause.

    \b
    Examples:
      sagellm-control scheduler
      sagellm-control scheduler --redis-url redis://queue:6379/0 --log-format json
    """
    from ..scheduler.process import run

    scheduler = loaded.settings.scheduler
    require_free(scheduler.metrics_host, scheduler.metrics_port, "--metrics-port")
    configure_logging(loaded.settings.log, "scheduler")
    serve(run(loaded.settings.scheduler, loaded.settings.redis))


@click.command(cls=SettingsCommand)
@takes_settings(FlagsOf("worker", "Worker"), REDIS_FLAGS, LOG_FLAGS)
def worker(loaded: Loaded) -> None:
    """Run the requests that are assigned to one or several engines, and publish their tokens.

    It finds out each engine's models, slots and health by itself. Run it next to its engines. SIGTERM drains
    it: what runs is finished, the rest goes back to the queue.

    \b
    Examples:
      sagellm-control worker --engine http://127.0.0.1:8001
      sagellm-control worker --engine http://gpu1:8000 --engine http://gpu2:8000 --redis-url redis://queue:6379/0
    """
    from sagellm_workers.process import run

    worker = loaded.settings.worker
    require_free(worker.metrics_host, worker.metrics_port, "--metrics-port")
    configure_logging(loaded.settings.log, "worker")
    serve(run(loaded.settings.worker, loaded.settings.redis))


@click.command(cls=SettingsCommand)
@takes_settings(FlagsOf("engine", "Simulated engine"), LOG_FLAGS)
def engine(loaded: Loaded) -> None:
    """Serve a simulated engine: an OpenAI-compatible server without a model.

    It batches continuously as a real engine does, at speeds that you set, and fails on request: for trying
    things out and for load tests.

    \b
    Examples:
      sagellm-control engine --port 8100 --model my-model
      sagellm-control engine --port 8101 --slots 4 --tpot-ms 25 --fail-rate 0.05
    """
    from ..simulated_engine.process import run

    require_free(loaded.settings.engine.host, loaded.settings.engine.port, "--port")
    configure_logging(loaded.settings.log, "engine")
    serve(run(loaded.settings.engine))
