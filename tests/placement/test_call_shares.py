"""Calls in flight: rates by calls, and their division between engines, against a linear program and brute force."""

from __future__ import annotations

import random

import numpy as np
import pytest
from placement_models import LLAMA_8B, MINILM, QWEN_72B, need
from scipy.optimize import linprog

from gra_hpc.placement.call_shares import LEVELS, Gains, Shares, divide
from gra_hpc.placement.performance import GB, constants_for, rate_curve

A100 = constants_for("a100", 80)


def gains(t: int = 1, most: float = 256.0) -> Gains:
    return Gains.of(rate_curve(need("m", LLAMA_8B), t, A100)).up_to(most)


@pytest.mark.parametrize("t", [1, 4])
def test_rates_are_the_performance_model_s(t: int) -> None:
    curve = rate_curve(need("q", QWEN_72B), t, A100)
    found = Gains.of(curve)
    for calls in (1, 3, 10, 27, 40, 100, 150, 256):
        assert found.at(calls) == pytest.approx(curve.samples_per_s(80 * GB, calls), rel=0.04)
    assert found.most == pytest.approx(curve.samples_per_s(80 * GB), rel=1e-6)
    slopes = np.diff(found.rates, prepend=0.0) / np.diff(found.calls, prepend=0.0)
    assert (np.diff(slopes) <= 1e-12).all()


def test_a_small_kv_cache_ends_it() -> None:
    whole, cut = gains(), gains(most=37.0)
    assert cut.calls[-1] == 37.0
    assert cut.most == pytest.approx(whole.at(37.0))
    assert cut.at(1000) == cut.most
    assert gains(most=0.5).most == pytest.approx(whole.at(0.5))
    assert set(whole.calls) <= {*LEVELS, 256.0}


def by_program(engines: list[tuple[str, float, Gains]], total: float) -> float:
    """The same division as a linear program over the segments of all engines."""
    names = sorted({name for name, _, _ in engines})
    width = np.concatenate([np.diff(g.calls, prepend=0.0) for _, _, g in engines])
    gain = np.concatenate([t * np.diff(g.rates, prepend=0.0) for _, t, g in engines])
    owner = np.repeat([names.index(n) for n, _, _ in engines], [len(g.calls) for _, _, g in engines])
    rows = [np.append(width, 0.0)] + [np.append(-gain * (owner == k), 1.0) for k in range(len(names))]
    cost = np.append(np.zeros(len(width)), -1.0)
    bounds = [(0.0, 1.0)] * len(width) + [(0.0, None)]
    return -float(linprog(cost, np.array(rows), [total, *(0.0 for _ in names)], bounds=bounds).fun)


def spent(shares: Shares) -> float:
    return sum(shares.calls)


@pytest.mark.parametrize("seed", range(30))
def test_no_division_is_better(seed: int) -> None:
    rng = random.Random(seed)
    engines = [
        (name, rng.choice([1.0, 0.475, 0.3]), gains(rng.choice([1, 2, 4]), rng.uniform(2, 256)))
        for name in ("a", "b", "c", *rng.choices("abc", k=rng.randrange(6)))
    ]
    total = rng.choice([1.0, 20.0, 100.0, 400.0, 3000.0])
    shares = divide(engines, total)
    assert shares.samples_per_s == pytest.approx(by_program(engines, total), rel=1e-6)
    assert spent(shares) <= total * (1 + 1e-9)
    done: dict[str, float] = {}
    for (name, time, g), calls in zip(engines, shares.calls, strict=True):
        assert calls <= g.calls[-1] * (1 + 1e-9)
        done[name] = done.get(name, 0.0) + time * float(g.at(calls))
    assert min(done.values()) == pytest.approx(shares.samples_per_s, rel=1e-6)
    # The prices prove it: what they leave of all engines' worth, and of the calls', is what is done.
    at = shares.prices
    bound = total * at.call + sum(g.worth(at.samples[name] * time, at.call) for name, time, g in engines)
    assert bound == pytest.approx(shares.samples_per_s, rel=1e-6)


def test_twice_as_many_engines_in_the_same_window_gain_less_than_twice() -> None:
    def rate(engines: int, calls: float) -> float:
        return divide([("m", 1.0, gains())] * engines, calls).samples_per_s

    assert rate(12, 12 * 256) == pytest.approx(12 * rate(1, 256))
    assert rate(12, 384) < 0.9 * 12 * rate(1, 256)
    assert rate(12, 48) < 1.2 * rate(6, 48)


def test_an_embedding_model_needs_no_calls_of_the_window() -> None:
    light = Gains.of(rate_curve(need("e", MINILM), 1, A100))
    engines = [("m", 1.0, gains()), ("e", 0.5, light)]
    with_it, without = divide(engines, 64), divide(engines[:1], 64)
    assert with_it.samples_per_s == pytest.approx(without.samples_per_s, rel=1e-3)
