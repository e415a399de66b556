"""The ledger balances, whatever is added, and says so when it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.errors import StorageError
from gra_hpc.run.ledger import Ledger

outcomes = st.lists(
    st.tuples(st.sampled_from(["accepted", "rejected", "failed"]), st.sampled_from("ab"), st.sampled_from("xy")),
    max_size=30,
)


@given(outcomes, outcomes, st.integers(0, 5))
def test_balance_survives_counting_adding_and_saving(a: list, b: list, more: int) -> None:  # type: ignore[type-arg]
    one, two = Ledger.of(len(a) + more, a), Ledger.of(len(b), b)
    for ledger in (one, two, one + two, Ledger.from_dict((one + two).to_dict())):
        ledger.check("here")
    assert (one + two).pending == more
    assert (one + two).accepted == sum(s == "accepted" for s, _, _ in a + b)


def test_an_unbalanced_ledger_is_refused() -> None:
    with pytest.raises(StorageError, match="does not balance"):
        Ledger(planned=3, accepted=1, pending=1).check("shard 7")
    with pytest.raises(StorageError):
        Ledger.of(1, [("accepted", "", ""), ("accepted", "", "")]).check("too many")
