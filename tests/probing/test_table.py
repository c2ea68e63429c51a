"""A table in wider bins, and one of some latents, are those that counting again would give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probing.labelled import codes, equal, labels, table

from saev.probing.counts.table import MANTISSA, floats, lower_edges, ordered


def test_some_latents_are_numbered_as_asked_for():
    x, y = codes(), labels()
    chosen = torch.tensor([6, 5, 0, 3])
    equal(table(x, y).select(chosen), table(x[:, chosen], y), exact=True)
    assert table(x, y).select(chosen[:0]).n_latents == 0


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_ordered_integers_stand_in_the_order_of_the_floats(numbers):
    values = torch.tensor(numbers)
    assert torch.equal(floats(ordered(values)), values)
    distinct = values.unique() + 0.0  # -0.0 is no code
    assert (ordered(distinct).diff() > 0).all()


@pytest.mark.parametrize("bits", [0, 2, 10, MANTISSA])
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False).filter(bool), min_size=1))
def test_a_value_is_in_a_bin_or_above_exactly_from_its_edge_on(bits, numbers):
    values = torch.tensor(numbers)
    keys = ordered(values) >> (MANTISSA - bits)
    above = values.double()[:, None] >= lower_edges(keys, bits)[None]
    assert torch.equal(above, keys[:, None] >= keys[None])
