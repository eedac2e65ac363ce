"""The command ``sagellm-control``: what it is, and its commands."""

from __future__ import annotations

from typing import Any

import click

from .. import __version__
from .api_key_command import api_key
from .chaos_command import chaos
from .dead_command import dead
from .engines_command import engines
from .enqueue_command import enqueue
from .failures import clear_lines
from .policy_command import policy
from .process_commands import engine, gateway, scheduler, worker
from .requests_command import requests
from .settings_command import settings
from .simulate_command import simulate
from .up_command import up


class Root(click.Group):
    """Lists the commands in the order in which one meets them, and keeps tracebacks from users."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        with clear_lines():
            return super().invoke(ctx)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sagellm-control")
def root() -> None:
    """A durable, shared, priority-aware queue in front of LLM engines.

    Clients send OpenAI requests to a gateway; the requests wait in Redis; schedulers give each to an engine
    as soon as it has room; the engine's worker runs it, and the tokens go back as they are made.

    \b
    Everything on this machine, with a simulated engine, for a first look:
      sagellm-control up
    The same in front of real engines (vLLM, SGLang, llama.cpp, Ollama, …):
      sagellm-control up --engine http://127.0.0.1:8001 --engine http://127.0.0.1:8002
    Each process by itself, as on several machines:
      sagellm-control gateway --redis-url redis://queue:6379/0 --host 0.0.0.0
      sagellm-control scheduler --redis-url redis://queue:6379/0
      sagellm-control worker --redis-url redis://queue:6379/0 --engine http://127.0.0.1:8001

    Every flag can be set as an environment variable and in a TOML file as well;
    `sagellm-control settings` shows all settings and where each value comes from.
    """


PROCESSES = (up, gateway, scheduler, worker, engine)
TOOLS = (enqueue, engines, requests, policy, dead, api_key, settings, simulate, chaos)

for command in (*PROCESSES, *TOOLS):
    root.add_command(command)
