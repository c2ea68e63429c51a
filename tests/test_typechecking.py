"""Shapes are checked in the first calls of every test."""

import pytest
import torch
from jaxtyping import TypeCheckError
from typechecking import LIMIT, start_test

from saev.ops.ordering import order

FLOATS = torch.tensor([1.0, 0.0])  # where integers are required


def test_the_first_calls_of_a_test_are_checked():
    with pytest.raises(TypeCheckError, match="keys"):
        order(FLOATS)
    for _ in range(LIMIT):
        order(torch.tensor([1, 0]))
    order(FLOATS)
    start_test()
    with pytest.raises(TypeCheckError, match="keys"):
        order(FLOATS)
