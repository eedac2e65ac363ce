"""An order that a program brings needs a handicap; the rest is what most would say."""

from __future__ import annotations

from sagellm_control.manager.orders import make_policy
from sagellm_control.scheduler.forecast import UNKNOWN, Forecast
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.request import Arrival


def test_an_own_order_that_is_fair_shares_among_tenants_unless_it_says_otherwise() -> None:
    class Own:
        fair = True

        def handicap(self, request: Arrival, forecast: Forecast) -> float:
            return 0.0

    asked = Arrival("r", RequestPriority.NORMAL, 0.0, tenant="t")
    order = make_policy(Own())
    assert (order.flow(asked), order.haste(asked), order.charge(asked, UNKNOWN)) == ("t", 1.0, 0.0)
