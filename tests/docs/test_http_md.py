"""docs/http.md names every header that is read, every path, and every code that the queue gives."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from sagellm_control.gateway import admin_endpoints, endpoints, request_endpoints, request_headers, status_endpoints
from sagellm_control.gateway.errors import GATEWAY_STOPPING
from sagellm_control.store.steps import endings
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Reason

from ..architecture.sources import modules

PAGE = (Path(__file__).parents[2] / "docs/http.md").read_text()


def test_every_header() -> None:
    read = set(
        re.findall(r'"(X-[A-Za-z-]+|Idempotency-Key|trace(?:parent|state))"', inspect.getsource(request_headers))
    )
    # One that is not among these is not read where it is the only one.
    assert {name.lower() for name in read} == request_headers._OURS  # pyright: ignore[reportPrivateUsage]
    assert [name for name in read if f"`{name}" not in PAGE] == []


@pytest.mark.parametrize("module", [admin_endpoints, endpoints, request_endpoints, status_endpoints])
def test_every_path(module: object) -> None:
    paths = set(re.findall(r'"(/[a-z][a-z0-9/_]*)', inspect.getsource(module)))  # type: ignore[arg-type]
    assert paths
    assert [path for path in paths if path.rstrip("/") not in PAGE] == []


def test_every_code() -> None:
    written = {value for value in vars(endings).values() if isinstance(value, bytes)}
    codes = {Ending.decode(value).code for value in written} | set(map(str, Reason)) | {GATEWAY_STOPPING}
    assert len(codes) > len(Reason)
    assert [code for code in codes if f"`{code}`" not in PAGE] == []


def test_every_code_that_a_process_gives_by_itself() -> None:
    codes: set[str] = set()
    for part in ("sagellm_control.gateway", "sagellm_control.client", "sagellm_control.store", "sagellm_workers"):
        for name, path in modules(part).items():
            text = path.read_text(encoding="utf-8")
            codes |= set(re.findall(r'(?:\bcode=|\.end\(\s*Outcome\.\w+,\s*\d+,\s*)"(\w+)"', text))
            if name.endswith(".engine_errors"):
                codes |= set(re.findall(r'"([a-z]+_[a-z]+)"', text))
    assert {"body_lost", "engine_timeout", "request_lost", "unknown_path"} <= codes
    assert [code for code in sorted(codes) if f"`{code}`" not in PAGE] == []
