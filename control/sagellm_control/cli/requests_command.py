"""``requests``: list, show and cancel requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from ..wire.states import RequestState
from .failures import engines_id
from .options import REDIS_FLAGS, Loaded, SettingsCommand, takes_settings
from .tables import moment, print_json, print_table, seconds

if TYPE_CHECKING:
    from ..scheduler.explain import Explanation
    from ..store.connect import Store
    from ..store.settings import RedisSettings
    from ..store.views import RequestTotals, RequestView

_STATES = [state.value for state in RequestState]


@click.group()
def requests() -> None:
    """List, show, explain and cancel requests.

    A request's ID is in the header X-Request-ID of its answer; the one in the answer's body is the engine's.

    \b
    Examples:
      sagellm-control requests list --state waiting
      sagellm-control requests show 9f86d081884c7d659a2feaa0c55ad015
      sagellm-control requests explain 9f86d081884c7d659a2feaa0c55ad015
      sagellm-control requests cancel 9f86d081884c7d659a2feaa0c55ad015
    """


@requests.command("list", cls=SettingsCommand)
@click.option(
    "--state",
    type=click.Choice(_STATES),
    help="Only those in this state; finished ones are shown only when asked for.",
)
@click.option("--model", metavar="NAME", help="Only those for this model.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON list.")
@takes_settings(REDIS_FLAGS)
def list_(loaded: Loaded, state: str | None, model: str | None, limit: int, as_json: bool) -> None:
    """Show requests: those that run, then those that wait, in the order in which they go.

    Finished ones come the newest first. Below them it says that there are more than --limit, and of those that wait
    how many.

    \b
    Examples:
      sagellm-control requests list
      sagellm-control requests list --state waiting --model my-model --limit 20
      sagellm-control requests list --state finished --json
    """
    views, totals = asyncio.run(_list(loaded.settings.redis, state, model, limit + 1))
    cut = len(views) > limit
    del views[limit:]
    if as_json:
        print_json(views)
    else:
        _print_requests(views, state)
    if cut:
        known = {None: sum(totals), "waiting": totals.waiting, "queued": totals.queued}.get(state, 0)
        click.echo(f"… {known - limit} more; --limit" if known > limit else "… more; --limit", err=True)
    if not as_json:
        click.echo(f"{totals.on_engines} on engines, {totals.waiting} waiting, {totals.queued} queued", err=True)


def _print_requests(views: list[RequestView], state: str | None) -> None:
    print_table(
        ("REQUEST", "MODEL", "STATE", "PRIORITY", "AGE", "TENANT", "ENGINE", "ATTEMPT"),
        [
            (
                view.request_id,
                view.pool,
                view.outcome or view.state,
                view.priority,
                seconds(view.age_s),
                view.tenant,
                view.engine,
                view.attempt,
            )
            for view in views
        ],
        empty=f"No request is {state}." if state else "No request waits or runs.",
    )


@requests.command(cls=SettingsCommand)
@click.argument("request_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON object.")
@takes_settings(REDIS_FLAGS)
def show(loaded: Loaded, request_id: str, as_json: bool) -> None:
    """Show all that is known of one request: where it is, since when, and how it ended.

    \b
    Examples:
      sagellm-control requests show 9f86d081884c7d659a2feaa0c55ad015
      sagellm-control requests show 9f86d081884c7d659a2feaa0c55ad015 --json | jq .state
    """
    view = asyncio.run(_find(loaded.settings.redis, request_id))
    if as_json:
        print_json(view)
        return
    facts = view.model_dump(mode="json", exclude={"fields"})
    facts |= {f"record.{name}": _readable(name, value) for name, value in view.fields.items() if name not in facts}
    print_table(
        ("FIELD", "VALUE"),
        [(name, value) for name, value in facts.items() if value not in (None, "")],
        empty="It has no record.",
    )


@requests.command(cls=SettingsCommand)
@click.argument("request_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON object.")
@takes_settings(REDIS_FLAGS)
def explain(loaded: Loaded, request_id: str, as_json: bool) -> None:
    """Say what a request waits for, which engines were looked at, and why the chosen one won.

    \b
    Examples:
      sagellm-control requests explain 9f86d081884c7d659a2feaa0c55ad015
      sagellm-control requests explain 9f86d081884c7d659a2feaa0c55ad015 --json | jq .waits_for
    """
    explanation = asyncio.run(_explain(loaded.settings.redis, request_id))
    if as_json:
        print_json(explanation)
        return
    facts = explanation.model_dump(exclude={"engines"})
    if expected := explanation.expected:
        facts["expected"] = (
            f"{expected['prompt_tokens']:g} tokens of prompt, read in {expected['prefill_ms']:g} ms, and "
            f"{expected['output_tokens']:g} of answer, made in {expected['decode_ms']:g} ms"
        )
    print_table(
        ("FIELD", "VALUE"), [(name, value) for name, value in facts.items() if value not in (None, "", {})], empty=""
    )
    click.echo()
    print_table(
        ("ENGINE NOW", "COULD TAKE IT", "WHY", "ACTIVE", "FREE", "TOKENS TO READ", "BUSY FOR"),
        [
            (
                e.engine,
                "yes" if e.could_take_it else "no",
                e.why,
                e.requests,
                e.free,
                e.uncached_tokens,
                f"{e.busy_ms / 1000:.2f} s",
            )
            for e in explanation.engines
        ],
        empty="No engine is READY.",
    )


@requests.command(cls=SettingsCommand)
@click.argument("request_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON object.")
@takes_settings(REDIS_FLAGS)
def cancel(loaded: Loaded, request_id: str, as_json: bool) -> None:
    """End a request, wherever it is; an engine that runs it is told to stop.

    \b
    Examples:
      sagellm-control requests cancel 9f86d081884c7d659a2feaa0c55ad015
    """
    result = asyncio.run(_cancel(loaded.settings.redis, request_id))
    if as_json:
        print_json({"request_id": request_id, "result": result})
        return
    said = {
        "ended": "is cancelled",
        "stopping": "is being stopped by its worker",
        "finished": "had ended before",
    }
    click.echo(f"{request_id} {said.get(result, result)}.")


def _readable(name: str, value: str) -> str:
    """A moment as one; other times (ms) are spans, and short of the year 2001."""
    try:
        return moment(float(value)) if name.endswith("_ms") and 1e12 < float(value) < 1e14 else value
    except ValueError:
        return value


async def _list(
    redis: RedisSettings, state: str | None, model: str | None, limit: int
) -> tuple[list[RequestView], RequestTotals]:
    from ..store.connect import open_store
    from ..store.views import count_requests, list_requests
    from .named_pools import pool_of

    async with open_store(redis) as store:
        pool = await pool_of(store, model) if model else None
        views = await list_requests(store, pool, RequestState(state) if state else None, limit)
        return views, await count_requests(store, pool)


async def _find(redis: RedisSettings, request_id: str) -> RequestView:
    from ..store.connect import open_store

    async with open_store(redis) as store:
        return await _require(store, request_id)


async def _explain(redis: RedisSettings, request_id: str) -> Explanation:
    from ..scheduler.explain import explain_request
    from ..store.connect import open_store

    async with open_store(redis) as store:
        return await explain_request(store, await _require(store, request_id))


async def _cancel(redis: RedisSettings, request_id: str) -> str:
    from ..store.connect import open_store
    from ..store.steps.cancel import cancel as cancel_step

    async with open_store(redis) as store:
        return await cancel_step(store, (await _require(store, request_id)).pool, request_id)


async def _require(store: Store, request_id: str) -> RequestView:
    from ..store.views import find_request

    view = await find_request(store, request_id)
    if view is None:
        why = engines_id(request_id) or "it never was, or its record is gone"
        raise click.ClickException(f"there is no request {request_id!r}: {why}")
    return view
