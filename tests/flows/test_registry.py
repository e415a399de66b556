"""What flows there are, and that what is asked of one is asked of its description."""

from __future__ import annotations

import pytest

from gra_hpc.config.presets import compose
from gra_hpc.errors import ConfigError
from gra_hpc.flows import registry
from gra_hpc.flows.render import templates


def test_a_flow_of_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"method.flow=sinthesize: no such flow; did you mean synthesize\?"):
        compose("demo", ["method.flow=sinthesize"])


def test_the_paper_makes_new_instructions() -> None:
    assert registry.flow_of(compose("demo")).keys.seeds_rival


@pytest.mark.parametrize("flow", registry.every(), ids=lambda flow: flow.name)
def test_a_description_agrees_with_itself(flow: registry.Flow) -> None:
    """Each question has a template, a size and a stage that the ledger knows; what is expected is asked."""
    steps = {q.step for q in flow.questions}
    config = compose("demo", [f"method.flow={flow.name}", "method.rounds=1", "method.samples_per_seed=1"])
    from gra_hpc.placement.workload import MethodRates

    asked = [*flow.expect_prepare, *flow.expect(config, MethodRates())]
    assert {f"{step}.j2" for step in steps} <= set(templates())
    assert {a.step for a in asked} <= steps <= {*flow.sizes}
    assert {a.role for a in asked} <= {*flow.seats(config)}
    assert flow.asks == bool(asked)
    assert bool(flow.prepare) == bool(flow.expect_prepare)
