"""What starts and stops engines."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..embedded import LOOPBACK, free_port

log = logging.getLogger(__name__)

STOP_WITHIN_S = 10.0
"""From SIGTERM to SIGKILL."""


@dataclass(slots=True, frozen=True)
class LaunchedEngine:
    """An engine that has been started; it may take a while to answer."""

    engine_id: str
    host: str
    port: int
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


class EngineLauncher(Protocol):
    """Starts engines and stops them: processes, containers, machines of a cloud."""

    async def launch(self, model_id: str, instance_type: str) -> LaunchedEngine:
        """Start an engine. Raises what went wrong."""
        ...

    async def stop(self, engine_id: str) -> None:
        """Stop an engine that was started here; one that was not is left alone."""
        ...

    def owns(self, engine_id: str) -> bool:
        """Whether the engine was started here and runs."""
        ...


class ProcessLauncher:
    """Engines as processes of this machine.

    Args:
        command: with ``{model}``, ``{port}``, ``{engine_id}`` and ``{instance_type}``, e.g.
            ``"vllm serve {model} --port {port}"``; as a list, where an argument has spaces in it.
        host: where the engines listen.
        metadata: of the registrations.

    Raises:
        ValueError: the command has no ``{port}``.
    """

    def __init__(
        self, command: str | list[str], *, host: str = LOOPBACK, metadata: dict[str, Any] | None = None
    ) -> None:
        self._command = shlex.split(command) if isinstance(command, str) else list(command)
        if not any("{port}" in word for word in self._command):
            raise ValueError(f"command must say {{port}} somewhere: {command!r}")
        self._host = host
        self._metadata = metadata or {}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    def owns(self, engine_id: str) -> bool:
        process = self._running.get(engine_id)
        return process is not None and process.returncode is None

    async def launch(self, model_id: str, instance_type: str) -> LaunchedEngine:
        """Start a process on a free port. Raises OSError if it cannot be started."""
        port = free_port(self._host)
        engine_id = f"{model_id.rpartition('/')[2]}-{secrets.token_hex(3)}"
        values = {"model": model_id, "port": port, "engine_id": engine_id, "instance_type": instance_type}
        words = [word.format(**values) for word in self._command]
        # A session of its own: a Ctrl-C for us is none for the engine, which is drained first.
        process = await asyncio.create_subprocess_exec(*words, start_new_session=True)
        self._running[engine_id] = process
        log.info("engine %s: started as process %d on port %d", engine_id, process.pid, port)
        return LaunchedEngine(engine_id, self._host, port, {**self._metadata, "instance_type": instance_type})

    async def stop(self, engine_id: str) -> None:
        process = self._running.get(engine_id)
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                log.warning("engine %s: did not stop within %g s and is killed", engine_id, STOP_WITHIN_S)
                process.kill()
                await process.wait()
        self._running.pop(engine_id, None)  # only now: who is cancelled in between can call again

    async def close(self) -> None:
        """Stop all."""
        await asyncio.gather(*(self.stop(engine_id) for engine_id in list(self._running)))
