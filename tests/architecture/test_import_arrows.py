"""Who may import whom. The picture in ``docs`` is only true as long as this holds."""

from __future__ import annotations

import importlib
from graphlib import CycleError, TopologicalSorter

import pytest

from .sources import arrows, imports, modules, reaches

CONTROL = "sagellm_control"

FOR_WORKERS = (f"{CONTROL}.wire", f"{CONTROL}.store", f"{CONTROL}.stopping", f"{CONTROL}.pacing")
"""All that workers need of the control package. Pacing is pure, and must be the same in the simulator."""

DOES_IO = (
    *("redis", "httpx", "aiohttp", "asyncio", "socket", "subprocess", "ssl", "pathlib", "os", "time"),
    *("random", "datetime", "threading", "prometheus_client", "logging", f"{CONTROL}.store", f"{CONTROL}.client"),
)
"""What an order, a placement or a message shape has no business with: I/O, and clocks and dice of its own."""

KNOW_THE_WORKERS = (f"{CONTROL}.settings", f"{CONTROL}.engine_access")

VIEW = (
    "forecast",
    "demand",
    "shelf",
    "ring",
    "prefix_index",
    "ready_speeds",
    "engine_load",
    "recent_work",
    "engine_index",
    "openings",
    "engine_ledger",
)
"""What the snapshot of the engines is made of."""

PURE: dict[str, tuple[str, ...]] = {
    "forecast": (),
    "demand": (),
    "policy_settings": (),
    "passing": (),
    "tenant_clock": (),
    "shelf": (),
    "ring": (),
    "prefix_index": (),
    "ready_speeds": (),
    "engine_load": ("forecast",),
    "recent_work": ("engine_load", "forecast"),
    "engine_index": ("engine_load", "ready_speeds", "ring", "shelf"),
    "openings": ("engine_load",),
    "engine_ledger": (
        *("demand", "engine_index", "engine_load", "forecast", "openings", "prefix_index"),
        "recent_work",
    ),
    "open_engines": VIEW,
    "estimates": ("engine_load", "forecast"),
    "lateness": ("policy_settings",),
    "overload": ("policy_settings",),
    "order": ("forecast", "policy_settings"),
    "placement": ("forecast", "policy_settings", "open_engines", "recent_work", "ring"),
    "head_of_line": (
        *("engine_load", "forecast", "lateness", "open_engines", "order", "overload", "passing", "placement"),
    ),
}
"""Part of the scheduler that is pure -> the parts of the scheduler that it may import."""

BELOW: dict[str, tuple[str, ...]] = {
    "wire": (),
    "store": ("wire",),
    "client": ("store", "wire"),
    "keeper": ("store", "wire"),
    "pacing": ("wire",),
    **{f"scheduler.{pure}": ("wire", *(f"scheduler.{other}" for other in below)) for pure, below in PURE.items()},
    "scheduler": ("keeper", "store", "wire", "stopping"),
    # What a policy is called and why a request waits, a gateway tells with the objects that decide it.
    "gateway": (
        *("client", "store", "wire", "stopping"),
        *("scheduler.policy_settings", "scheduler.pool_policy", "scheduler.explain"),
        # Where nobody is ahead of a request, it decides as a scheduler would, with the same objects.
        *("scheduler.proposal", "scheduler.engine_watch"),
    ),
    "chaos": (
        *("client", "gateway.errors", "gateway.request_headers", "embedded", "simulated_engine.answers"),
        *("store", "wire"),
    ),
    "embedded": (),
    "policies": ("policies", "router", "types", "wire"),
    "router": ("types",),
    "types": ("wire",),
    "ir": ("types",),
    "engine_access": ("store", "wire"),
    "engine_client": ("engine_access", "types"),
    "lifecycle": ("engine_client", "types"),
    "manager": (
        *("client", "store", "wire", "settings", "manager_settings"),
        *("scheduler.order", "scheduler.placement", "scheduler.open_engines"),
        # What a scheduler is made of, but for what it does with the store.
        *("scheduler.forecast", "scheduler.engine_load", "scheduler.estimates", "scheduler.guarded"),
        *("scheduler.head_of_line", "scheduler.lateness", "scheduler.overload", "scheduler.policy_settings"),
        *("scheduler.tenant_clock",),
        *("engine_access", "engine_client", "lifecycle", "local_engine_client", "types"),
    ),
    "manager_settings": ("scheduler.order", "wire"),
    "settings": (
        *("command_settings", "gateway.settings", "manager_settings", "scheduler.settings"),
        *("setting_kinds", "simulated_engine.settings", "store.settings"),
    ),
    "command_settings": (),
    "setting_kinds": (),
    "scaling": ("embedded", "manager", "types"),
    "simulated_engine": ("stopping",),
    "simulator": ("scheduler", "pacing", "wire"),
}
"""Part of the control package -> the parts that it may import, besides itself."""


def test_workers_know_only_the_wire_and_the_store() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules("sagellm_workers").items()
        for name in imports(path)
        if reaches(name, CONTROL) and not any(reaches(name, allowed) for allowed in FOR_WORKERS)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "module",
    [m for part in ("wire", "pacing", *(f"scheduler.{p}" for p in PURE)) for m in modules(f"{CONTROL}.{part}")],
)
def test_what_is_pure_does_no_io(module: str) -> None:
    imported = imports(modules()[module])
    assert [name for name in imported if any(reaches(name, other) for other in DOES_IO)] == []
    assert "await " not in modules()[module].read_text(encoding="utf-8")


@pytest.mark.parametrize("part", BELOW)
def test_arrows_point_down(part: str) -> None:
    package = f"{CONTROL}.{part}"
    allowed = (package, *(f"{CONTROL}.{other}" for other in BELOW[part]))
    wrong = [
        f"{module} imports {name}"
        for module, path in modules(package).items()
        for name in imports(path)
        if reaches(name, CONTROL) and name != CONTROL and not any(reaches(name, other) for other in allowed)
    ]
    assert wrong == []


def circle(found: dict[str, set[str]]) -> list[str]:
    """One circle of the arrows, its first again at its end; empty: there is none."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(arrows()) == []


def test_no_folders_import_each_other_in_a_circle() -> None:
    # The folders and files right below each package.
    found: dict[str, set[str]] = {}
    for module, imported in arrows().items():
        part = _part(module)
        found.setdefault(part, set()).update({_part(name) for name in imported} - {part})
    assert circle(found) == []


def _part(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_the_control_package_does_not_know_the_workers() -> None:
    # But for the command line, which starts every kind of process, the settings that it reads, and the one module
    # through which the in-process API borrows the engine adapters (docs/adr/0010).
    wrong = [
        f"{module} imports {name}"
        for module, path in modules(CONTROL).items()
        if not reaches(module, f"{CONTROL}.cli") and module not in KNOW_THE_WORKERS
        for name in imports(path)
        if reaches(name, "sagellm_workers")
    ]
    assert wrong == []


def test_redis_is_imported_by_what_talks_to_it() -> None:
    wrong = [
        module
        for module, path in modules().items()
        if any(name == "redis" or name.startswith("redis.asyncio") for name in imports(path))
        and not reaches(module, f"{CONTROL}.store")
    ]
    # A type of its connection, for one attribute; nothing is connected there.
    assert [module for module in wrong if module != f"{CONTROL}.client.inbox"] == []


def test_every_module_can_be_imported() -> None:
    for module in modules():
        if not module.endswith("__main__"):
            assert importlib.import_module(module).__doc__, module
