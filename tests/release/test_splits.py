"""What is held out: no seed in both splits, nor any text; rows that share nothing stay where they were."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.release.shuffle import keys_of
from gra_hpc.release.splits import WORDS, split_keys

HALF = np.uint64(1 << 63)
LONG = "The river runs from the old hills through seven quiet towns to a warm sea."


def table(rows: list[tuple[str, str, str]], domain: str = "qa") -> pa.Table:
    seeds, first, second = zip(*rows, strict=True) if rows else ((), (), ())
    columns = {"seed_id": seeds, "instruction": first, "response": second, "domain": [domain] * len(rows)}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def drawn(seed: str) -> np.uint64:
    return np.uint64(keys_of(pa.array([seed]), "split")[0])


SEEDS = [f"{n:032x}" for n in range(200)]
HELD_OUT = [s for s in SEEDS if drawn(s) < HALF]
TRAINED = [s for s in SEEDS if drawn(s) >= HALF]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Name a river.", "Nile"), ("name a  river", "Rhine")),
        (("Describe it.", LONG), ("Tell me.", LONG.upper())),
        (("琵琶湖は？", "湖"), ("琵琶湖は", "日本の湖")),
    ],
)
def test_a_text_that_is_in_training_is_not_held_out(one: tuple[str, str], other: tuple[str, str]) -> None:
    rows = [(HELD_OUT[0], *one), (TRAINED[0], *other), (HELD_OUT[0], "Other", "x"), (HELD_OUT[1], "Another", "x")]
    keys, seeds = split_keys([table(rows[:1]), table(rows[1:])])
    assert (keys >= HALF).tolist() == [True, True, True, False], "all of a seed goes with it"
    assert len(seeds) == 3 and int((seeds < HALF).sum()) == 1


def test_short_answers_are_no_texts_and_seeds_held_out_together_stay_so() -> None:
    rows = [(HELD_OUT[0], "Is it?", "Yes."), (TRAINED[0], "Was it?", "yes")]
    assert (split_keys([table(rows)])[0] < HALF).tolist() == [True, False]
    rows = [(HELD_OUT[0], "Is it?", "Yes."), (HELD_OUT[1], "Is it", "No.")]
    assert (split_keys([table(rows)])[0] < HALF).all()


def test_code_is_compared_as_code() -> None:
    rows = [(HELD_OUT[0], "Match `\\d`", "x"), (TRAINED[0], "Match `\\D`", "x")]
    assert (split_keys([table(rows)])[0] < HALF).tolist() == [True, False]
    rows = [(HELD_OUT[0], "Name it", "x"), (TRAINED[0], "name it", "x")]
    assert (split_keys([table(rows, "coding")])[0] < HALF).tolist() == [True, False]
    assert (split_keys([table(rows)])[0] < HALF).tolist() == [False, False]


@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_no_text_is_in_both_splits_and_the_rest_stays(number: int, count: int, texts: int) -> None:
    rng = random.Random(number)
    rows = [(rng.choice(SEEDS), f"text {rng.randrange(texts)}", f"x {rng.random()}") for _ in range(count)]
    keys, _ = split_keys([table(rows[i : i + 7]) for i in range(0, count, 7)])
    seen: dict[str, set[bool]] = {}
    for (seed, text, _), key in zip(rows, keys, strict=True):
        for name in (seed, text):
            seen.setdefault(name, set()).add(bool(key < HALF))
    assert all(len(sides) == 1 for sides in seen.values())
    alone = {s for s, t, _ in rows if len({s for s, other, _ in rows if other == t}) == 1}
    for (seed, _, _), key in zip(rows, keys, strict=True):
        if all(len({s for s, t, _ in rows if t == mine}) == 1 for s2, mine, _ in rows if s2 == seed) and seed in alone:
            assert key == drawn(seed)


def test_words_are_counted_in_the_normal_form() -> None:
    assert len(LONG.split()) >= WORDS
