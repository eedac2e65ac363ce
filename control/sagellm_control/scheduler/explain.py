"""Why a request waits, or why it is where it is: computed on demand, with the objects that decide."""

from __future__ import annotations

from pydantic import BaseModel

from ..store.connect import Store
from ..store.views import RequestView
from ..wire.request import Arrival, BadEntry, read_arrival
from ..wire.states import RequestState
from .demand import NOT_SEPARABLE, Part, meets, takes
from .engine_load import EngineLoad
from .engine_watch import EngineWatch
from .forecast import Forecast
from .open_engines import OpenEngines
from .placement import Hold
from .pool_policy import PoolPolicy
from .proposal import Proposer

MOST_ENGINES = 100
"""Engines told of one by one."""


class ConsideredEngine(BaseModel):
    """One engine as it is now: whether it could take the request, and what placements go by."""

    engine: str
    could_take_it: bool
    why: str
    requests: int
    free: int
    uncached_tokens: int = 0
    """Of the prompt: what it would have to read."""
    busy_ms: float = 0.0
    """How long what it holds and one more typical request keep it busy."""


class Explanation(BaseModel):
    """What is known of a request's place."""

    request_id: str
    pool: str
    tenant: str
    state: str
    policy: str
    placement: str
    rank: float | None = None
    position: int | None = None
    """Requests ahead of it in the waiting set."""
    wait_s: float | None = None
    """How long those are expected to take."""
    waits_for: str
    """In words."""
    expected: dict[str, float] = {}
    """Of the request: tokens, and ms on a typical engine."""
    chosen: str = ""
    """Why it runs where it runs."""
    would_choose: str = ""
    """The engine that the placement would choose now; "": none, or the request has been placed."""
    engines: list[ConsideredEngine] = []
    """As they are now, those that could take it first."""


async def explain_request(store: Store, view: RequestView) -> Explanation:
    """Look at the engines of the request's pool as they are now."""
    policy, watch = PoolPolicy(store, view.pool), EngineWatch(store, view.pool)
    await policy.follow()
    await watch.sweep()
    await watch.follow_placements()
    proposer = Proposer(policy, watch)
    found = Explanation(
        request_id=view.request_id,
        pool=view.pool,
        tenant=view.tenant,
        state=view.state,
        policy=policy.order.name + (f" ({policy.adaptive.why})" if policy.adaptive is not None else ""),
        placement=policy.placement.name,
        rank=float(view.fields["rank"]) if "rank" in view.fields else None,
        position=view.position,
        waits_for="",
        chosen=_chosen(view),
    )
    try:
        arrival = read_arrival(view.request_id, view.fields)
    except BadEntry as error:
        found.waits_for = f"nothing: its record cannot be read ({error})"
        return found
    forecast = proposer.forecast(arrival)
    found.expected = {
        "prompt_tokens": forecast.prompt_tokens,
        "output_tokens": round(forecast.output_tokens, 1),
        "prefill_ms": round(forecast.prefill_ms, 1),
        "decode_ms": round(forecast.decode_ms, 1),
    }
    now_ms = watch.clock.now_ms()
    watch.engines.open_due(now_ms)
    for load in list(watch.engines.loads())[:MOST_ENGINES]:
        found.engines.append(_considered(load, arrival, forecast, watch.engines, now_ms))
    choice = policy.placement.choose(arrival, forecast, watch.engines, now_ms)
    found.engines.sort(key=lambda engine: (not engine.could_take_it, engine.engine != choice))
    if isinstance(choice, str) and view.state in (RequestState.QUEUED, RequestState.WAITING):
        found.would_choose = choice
    found.waits_for = _waits_for(view, choice, watch.engines, arrival, now_ms)
    return found


def _chosen(view: RequestView) -> str:
    if not view.engine or "placed" not in view.fields:
        return ""
    placement, load, *uncached = view.fields["placed"].split(" ")
    by = f"by {placement}" if placement else "by hand"
    text = f"{view.engine} was chosen {by}; {load} other requests were on it then"
    if uncached and (prompt := view.fields.get("prompt_tokens")):
        text += f", and {uncached[0]} of the prompt's {prompt} tokens were left for it to read"
    return text


def _waits_for(
    view: RequestView, choice: str | Hold | None, engines: OpenEngines, arrival: Arrival, now_ms: float
) -> str:
    match view.state:
        case RequestState.QUEUED:
            return "a scheduler: none has ranked it yet"
        case RequestState.ASSIGNED:
            return f"the worker of {view.engine} to begin"
        case RequestState.RUNNING:
            return f"nothing: it runs on {view.engine}"
        case RequestState.FINISHED:
            return f"nothing: it has ended ({view.outcome})"
        case RequestState.WAITING:
            pass
    if view.position:
        ahead = f"{view.position} requests that are ahead of it"
        return f"{ahead}, and then {choice}" if isinstance(choice, str) else f"{ahead}, and for an engine with room"
    if isinstance(choice, str):
        return f"a scheduler to give it to {choice}"
    if isinstance(choice, Hold):
        return "a better engine than those that have room, for a bounded time"
    if not engines.ready:
        return "an engine: none is READY"
    if arrival.model and not engines.answers_to(arrival.model):
        return f"an engine that serves {arrival.model}: none is READY"
    if failed := engines.forbidden(arrival):
        left_s = (engines.forbidden_until_ms(arrival) - now_ms) / 1000
        return f"another engine than {failed}, which has failed it, to have room; in {left_s:.1f} s {failed} will do"
    match engines.part(arrival):
        case Part.DECODE:
            return "an engine that decodes to have room: its prompt has been read"
        case Part.WHOLE if arrival.kind not in NOT_SEPARABLE and not engines.takes_whole(arrival):
            return "an engine that decodes: none is READY"
        case _:
            return "an engine that may take it to have room"


def _considered(
    load: EngineLoad, arrival: Arrival, forecast: Forecast, engines: OpenEngines, now_ms: float
) -> ConsideredEngine:
    row = load.row
    able = engines.can_take(row.engine_id, arrival, forecast)
    if able and row.engine_id in arrival.excluded:
        why = "it has failed this request before, and gets it only where no other has room"
    elif able:
        why = "it has room"
    elif arrival.model and arrival.model not in row.models:
        why = f"it does not serve {arrival.model}"
    elif engines.kinds_matter and not takes(row, arrival.kind):
        why = f"it takes no requests of the kind {arrival.kind}"
    elif not meets(row, ("", "", engines.part(arrival))):
        why = f"its role is {row.role}"
    elif row.engine_id == engines.forbidden(arrival):
        left_s = (engines.forbidden_until_ms(arrival) - now_ms) / 1000
        why = f"it has failed this request, which waits for other engines for another {left_s:.1f} s"
    elif load.free <= 0:
        why = f"all of its {row.places} places are taken"
    elif load.is_paced(now_ms):
        why = f"its pace keeps it closed for another {(load.paced_until_ms - now_ms) / 1000:.2f} s"
    elif not load.fits(forecast):
        why = f"{load.kv_need(forecast):.0f} KV tokens are needed, {max(0.0, load.kv_free):.0f} are left"
    else:
        why = "its room is kept for a larger request"
    return ConsideredEngine(
        engine=row.engine_id,
        could_take_it=able,
        why=why,
        requests=load.requests,
        free=max(0, load.free),
        uncached_tokens=round(engines.uncached_tokens(row.engine_id, arrival, forecast)),
        busy_ms=round(load.drain_ms(), 1),
    )
