"""The published sageLLM gateways, installed without their own control plane; ours takes its place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VERSIONS = ("0.4.1.4", "0.5.4.14")

THEIR_DEPENDENCIES = (
    "fastapi<1",
    "uvicorn<1",
    "sse-starlette",
    "python-multipart",
    "opentelemetry-api<2",
    "opentelemetry-sdk<2",
    # Their releases are all pre-releases, which pip takes if one is named.
    "opentelemetry-instrumentation-fastapi>=0.40b0,<1",
    "opentelemetry-instrumentation-httpx>=0.40b0,<1",
    "opentelemetry-exporter-otlp<2",
    "isagellm-protocol>=0.5.4,<0.6",
)
ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sagellm-control-tests"
INSTALL_TIMEOUT_S = 300


def install(version: str) -> list[Path]:
    """Folders for ``PYTHONPATH``; installed once a machine, in some ten seconds."""
    gateway = _installed(f"gateway-{version}", "--no-deps", f"isagellm-gateway=={version}")
    return [gateway, _installed("gateway-dependencies", *THEIR_DEPENDENCIES)]


def environment(version: str, **more: str) -> dict[str, str]:
    """For a process that runs the gateway."""
    paths = [ROOT / "control", ROOT / "workers", *install(version)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **more}


def _installed(name: str, *what: str) -> Path:
    target = CACHE / f"{name}-py{sys.version_info[0]}{sys.version_info[1]}"
    whole = target / "installed"
    if not whole.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--target", str(target), *what],
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_TIMEOUT_S,
        )
        if done.returncode:
            raise RuntimeError(f"pip cannot install {' '.join(what)}, which this test needs: {done.stderr[-2000:]}")
        whole.touch()
    return target
