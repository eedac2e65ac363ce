"""What a client is told when its request cannot be taken, or not in time; and while it waits, why."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest

from sagellm_control.client.pools import Pools
from sagellm_control.scheduler.policy_settings import DEFAULT_ORDER
from sagellm_control.wire.states import RequestState

from ..waiting import wait_until
from .asking import MODEL, data, error_of, post_chat
from .conftest import SimulatedEngine, StartEngine, StartSystem
from .occupying import occupy


@pytest.mark.parametrize(
    ("limit", "code", "says"),
    [
        ({"gateway_max_waiting": 1}, "queue_full", ": 1."),
        ({"gateway_max_waiting_bytes": 150}, "queue_bytes_full", ": 150."),
        ({"gateway_class_max_waiting": ["NORMAL=1"]}, "class_full", ": 1."),
        ({"gateway_class_max_waiting_bytes": ["NORMAL=150"]}, "class_bytes_full", ": 150."),
        ({"gateway_tenant_max_waiting": 1}, "tenant_full", ": 1."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_full_queue_says_which_bound_and_when_to_come_back(
    busy_engine: SimulatedEngine, start_system: StartSystem, limit: dict[str, Any], code: str, says: str
) -> None:
    system = await start_system(busy_engine, **limit)
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs", "waits", user="t")
        async with post_chat(system, {}, user="t") as response:
            assert response.status == 429
            assert int(response.headers["Retry-After"]) >= 1
            of_requests = says == ": 1."
            assert int(response.headers["x-ratelimit-limit-requests"]) == (1 if of_requests else 100_000)
            assert response.headers["x-ratelimit-remaining-requests"] == "0"
            error = await error_of(response)
            assert error["code"] == code
            assert error["message"].endswith(says)


async def test_a_more_urgent_one_takes_the_place_of_the_least_urgent(
    busy_engine: SimulatedEngine, start_system: StartSystem
) -> None:
    system = await start_system(busy_engine, gateway_max_waiting=1)
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs")
        patient = asyncio.ensure_future(
            post_chat(system, {"X-Request-ID": "patient", "X-Request-Priority": "LOW"}).__aenter__()
        )
        await system.until("patient", RequestState.WAITING)
        await occupy(stack, system, "urgent", X_Request_Priority="HIGH")
        async with asyncio.timeout(20):
            response = await patient
        async with response:
            assert response.status == 429
            assert int(response.headers["Retry-After"]) >= 1
            assert response.headers["x-ratelimit-remaining-requests"] == "0"
            assert (await error_of(response))["code"] == "displaced"
        async with system.session.get(system.url + "/v1/requests/patient/result") as response:
            assert response.status == 429
            assert response.headers["x-ratelimit-limit-requests"] == "1"
            assert response.headers["x-ratelimit-remaining-requests"] == "0"
        async with post_chat(system, {"X-Request-Priority": "HIGH"}) as again:
            assert again.status == 429, "nobody makes place for his like"


async def test_a_class_waits_no_longer_than_its_ttl(busy_engine: SimulatedEngine, start_system: StartSystem) -> None:
    system = await start_system(busy_engine, gateway_queue_ttl=["NORMAL=0.2"], scheduler_sweep_s=0.1)
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs")
        async with asyncio.timeout(20), post_chat(system, {}) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            error = await error_of(response)
            assert error["code"] == "queue_ttl_exceeded"
            assert error["message"].endswith(" The gateway's --queue-ttl is NORMAL=0.2.")


@pytest.mark.parametrize(
    ("header", "value"),
    [("X-SLO-Reject", "perhaps"), ("X-SLO-TPOT-Ms", "-1"), ("X-SLO-TPOT-Ms", "0"), ("X-Session-ID", "a b")],
)
async def test_bad_headers_are_refused_by_name(
    start_engine: StartEngine, start_system: StartSystem, header: str, value: str
) -> None:
    system = await start_system(await start_engine())
    async with post_chat(system, {header: value}) as response:
        assert response.status == 400
        assert (await error_of(response))["param"] == header


async def test_the_record_has_what_the_headers_said(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine())
    headers = {"X-Request-ID": "r", "X-SLO-TPOT-Ms": "60", "X-Session-ID": "s1", "X-SLO-Reject": "1"}
    async with post_chat(system, headers, messages=[{"role": "user", "content": "x" * 5000}]) as response:
        assert response.status == 200
        assert int(response.headers["x-ratelimit-remaining-requests"]) > 0
    view = await system.find("r")
    assert view is not None
    assert (view.fields["tpot_slo_ms"], view.fields["session"], view.fields["reject_late"]) == ("60", "s1", "1")
    assert len(view.fields["prefix"].split(" ")) == 2


async def test_why_it_waits_is_told(busy_engine: SimulatedEngine, start_system: StartSystem) -> None:
    system = await start_system(busy_engine)
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs", "first", "second")
        async with system.session.get(system.url + "/v1/requests/second/explain") as response:
            told = await response.json()
        assert (told["state"], told["position"], told["policy"]) == ("waiting", 1, DEFAULT_ORDER)
        assert told["waits_for"].startswith("1 requests that are ahead of it")
        assert [(e["could_take_it"], e["why"]) for e in told["engines"]] == [(False, "all of its 1 places are taken")]
        async with system.session.get(system.url + "/v1/requests/runs/explain") as response:
            told = await response.json()
        found = re.search(r"was chosen by kv_cost; 0 other requests were on it then, and (\d+) of", told["chosen"])
        assert found is not None
        assert int(found[1]) == told["expected"]["prompt_tokens"]
        assert told["would_choose"] == ""
        async with system.session.get(system.url + "/v1/requests/nobody/explain") as response:
            assert response.status == 404


async def test_a_place_in_the_line_is_part_of_how_a_request_stands(
    busy_engine: SimulatedEngine, start_system: StartSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pools, "drain_rate", lambda *_: 0.5)
    system = await start_system(busy_engine)
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs", "first", "second")
        for request_id, position, wait_s in (("runs", None, None), ("first", 0, 2.0), ("second", 1, 4.0)):
            async with system.session.get(system.url + f"/v1/requests/{request_id}") as response:
                told = await response.json()
            assert (told["position"], told["wait_s"]) == (position, wait_s)


async def test_a_change_of_policy_reorders_what_waits(busy_engine: SimulatedEngine, start_system: StartSystem) -> None:
    system = await start_system(busy_engine, schedulers=2)
    async with AsyncExitStack() as stack:
        await occupy(stack, system, "runs", "older")
        await occupy(stack, system, "urgent", X_Request_Priority="CRITICAL")
        keys = system.store.keys.pool(MODEL)

        async def line() -> list[bytes]:
            return await system.store.commands.zrange(keys.waiting, 0, -1)

        assert await line() == [b"urgent", b"older"]
        async with system.session.post(system.url + "/admin/set_policy", json={"policy": "fifo"}) as response:
            assert (response.status, (await response.json())["pools"]) == (200, [MODEL])

        async def reordered() -> bool:
            return await line() == [b"older", b"urgent"]

        await wait_until(reordered, what="what waits is ranked anew")


async def test_a_policy_that_there_is_not(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine())
    refused: list[tuple[Any, int, str | None, str]] = [
        ({"policy": "lottery"}, 400, "policy", "fifo, priority"),
        ({"placement": "dice"}, 400, "placement", "round_robin, least_loaded"),
        ({"policy": "fifo", "aging_s": -1}, 400, "aging_s", "aging_s must be greater than or equal to 0"),
        ({"inner": "priority"}, 400, "inner", "inner must be 'fifo', 'slo_aware' or 'shortest'"),
        ({"colour": "red"}, 400, "colour", "unknown setting 'colour'"),
        ({}, 400, "policy", "Name at least one of policy"),
        ([], 400, None, "JSON object"),
        ({"policy": "fifo", "model": 5}, 400, "model", "the name of a model"),
        ({"policy": "fifo", "model": "nobody"}, 404, "model", "does not exist"),
    ]
    for body, status, param, says in refused:
        async with system.session.post(system.url + "/admin/set_policy", json=body) as response:
            assert response.status == status, body
            error = await error_of(response)
        assert error["param"] == param, body
        assert says in error["message"]
    assert await system.store.commands.hgetall(system.store.keys.pool(MODEL).settings) == {}


async def test_a_policy_for_no_pool_at_all_is_an_error(start_system: StartSystem) -> None:
    system = await start_system()
    for body, status, says in [
        ({"policy": "fifo"}, 404, "No engine has registered"),
        ({"policy": "fifo", "model": "any"}, 404, "No engine has registered"),
        ({"policy": "lottery"}, 400, "fifo"),
    ]:
        async with system.session.post(system.url + "/admin/set_policy", json=body) as response:
            assert response.status == status, body
            assert says in (await error_of(response))["message"]


async def test_admin_metrics_show_each_pool(start_engine: StartEngine, start_system: StartSystem) -> None:
    system = await start_system(await start_engine())
    async with post_chat(system, {}, stream=True) as response:
        assert [event async for event in data(response)][-1] == "[DONE]"
    async with system.session.get(system.url + "/admin/metrics") as response:
        pool = (await response.json())["pools"][MODEL]
    assert (pool["engines"], pool["counters"]["accepted"]) == (1, 1)
