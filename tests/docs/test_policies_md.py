"""docs/policies.md has every order and placement, and every setting of a pool."""

from __future__ import annotations

from sagellm_control.scheduler.order import ORDERS
from sagellm_control.scheduler.placement import PLACEMENTS
from sagellm_control.scheduler.policy_settings import PolicySettings

from ..architecture.sources import ROOT

TEXT = (ROOT / "docs/policies.md").read_text()


def test_every_name() -> None:
    names = [*ORDERS, *PLACEMENTS, *PolicySettings.model_fields]
    assert [name for name in names if f"`{name}`" not in TEXT] == []
