"""What the flags of ``simulate`` mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..simulator.fleet import Failure
    from ..simulator.job import Workload
    from ..simulator.rows import Case, Setting
    from ..wire.engine import EngineRole

ALL = "all"


def cases_of_flags(policy: str, placement: str, only_ours: bool) -> list[Case]:
    """The rows that ``--policy`` and ``--placement`` ask for."""
    from ..scheduler.order import ORDERS
    from ..scheduler.placement import PLACEMENTS
    from ..simulator.rows import Case, Kind, early_bindings

    policies = _names("policy", policy, list(ORDERS))
    placements = _names("placement", placement, list(PLACEMENTS))
    cases = [Case(Kind.OURS, one, where) for one in policies for where in placements]
    if not only_ours:
        cases += [*early_bindings(), Case(Kind.ORACLE, "oracle", "oracle")]
    return cases


def _names(what: str, text: str, known: list[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if ALL in names:
        return known
    for name in names:
        if name not in known:
            raise click.UsageError(f"unknown {what} {name[:40]!r}: use one of {', '.join(known)}, or all")
    if not names:
        raise click.UsageError(f"--{what} names nothing: use one of {', '.join(known)}, or all")
    return list(dict.fromkeys(names))


def setting_of_flags(
    *,
    engines: int,
    speeds: str,
    roles: str,
    slots: int,
    prefill_tps: float,
    cache_blocks: int,
    late: str,
    pace: str,
    failures: tuple[str, ...],
    parameters: tuple[str, ...],
) -> Setting:
    """Engines and pool, as the flags say."""
    from dataclasses import replace

    from ..scheduler.policy_settings import read_policy_settings
    from ..scheduler.pool_policy import check_settings
    from ..simulator.engine_model import NEVER_FORGETS, EngineModel
    from ..simulator.engine_worker import PaceRule
    from ..simulator.fleet import FleetModel
    from ..simulator.rows import Setting
    from ..simulator.workload import Objectives

    given = {"tpot_slo_ms": str(round(Objectives().tpot_ms)), "late": late}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals or name in ("policy", "placement"):
            raise click.UsageError(f"--set takes NAME=VALUE of a pool's parameter, not {parameter[:60]!r}")
        given[name] = value
    try:
        check_settings(given)
    except ValueError as error:
        raise click.UsageError(f"--set: {error}") from None
    rule = PaceRule()
    if pace != "learned":
        rule = PaceRule(learned=False, share=0.0 if pace == "off" else _number("--pace", pace, 0.01, 10))
    model = EngineModel(slots=slots, cache_blocks=cache_blocks or NEVER_FORGETS)
    fleet = FleetModel(
        engines=engines,
        model=replace(model, speed=replace(model.speed, prefill_tps=prefill_tps)),
        speeds=tuple(_number("--speeds", one, 0.001, 1000) for one in speeds.split(",")),
        roles=_roles(roles, engines),
        failures=tuple(_failure(text, engines) for text in failures),
    )
    return Setting(fleet, read_policy_settings(given), rule)


def _number(flag: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise click.UsageError(f"{flag} takes numbers from {least:g} to {most:g}, not {text[:40]!r}")
    return value


def _roles(text: str, engines: int) -> tuple[EngineRole, ...]:
    from ..wire.engine import EngineRole

    known = [role.value for role in EngineRole]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise click.UsageError(f"unknown role {name[:40]!r}: use one of {', '.join(known)}")
    roles = [EngineRole(names[number % len(names)]) for number in range(engines)]
    if set(roles) == {EngineRole.PREFILL}:
        raise click.UsageError("--roles: nobody would answer; add decoding, general or hybrid engines")
    if set(roles) == {EngineRole.DECODE}:
        raise click.UsageError("--roles: nobody would read prompts; add prefilling, general or hybrid engines")
    return tuple(EngineRole(name) for name in names)


def _failure(text: str, engines: int) -> Failure:
    from ..simulator.fleet import Failure

    engine, at, when = text.partition("@")
    start, plus, length = when.partition("+")
    if not at or not plus or not engine.isdecimal() or int(engine) >= engines:
        raise click.UsageError(
            f"--fail takes ENGINE@SECOND+SECONDS with an engine from 0 to {engines - 1}, not {text!r}"
        )
    return Failure(int(engine), _number("--fail", start, 0, 1e9) * 1000, _number("--fail", length, 0.001, 1e9) * 1000)


def workload_of_flags(
    *,
    trace: Path | None,
    synthetic: str | None,
    requests: int | None,
    setting: Setting,
    batch_share: float,
    tenants: int,
    aggressive: float,
    without_aggressive: bool,
    seed: int,
) -> Workload:
    """What arrives."""
    from ..simulator.synthetic import poisson
    from ..simulator.traces import BadTrace, read_trace
    from ..simulator.workload import Mix, without_tenant, workload_of

    mix = Mix(batch_share=batch_share, tenants=tenants, aggressive=aggressive, seed=seed)
    if trace is not None:
        try:
            lines = read_trace(trace, most=requests or 0)
        except BadTrace as error:
            raise click.ClickException(str(error)) from None
        name = trace.name
    else:
        lines = poisson(requests or 5000, seed=seed, bursts=synthetic == "bursts")
        name = str(synthetic)
    workload = workload_of(name, lines, mix=mix, model=setting.fleet.model)
    return without_tenant(workload, "tenant-0") if without_aggressive else workload
