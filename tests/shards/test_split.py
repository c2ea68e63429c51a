"""The split into training and held-out images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saev.shards.split import split_images


@given(
    st.lists(st.integers(0, 5), min_size=3, max_size=60),
    st.floats(0.01, 0.9),
    st.none() | st.integers(1, 9),
    st.booleans(),
)
def test_disjoint_and_complete(tokens, fraction, per_shard, whole_shards):
    tokens = np.array(tokens)
    readable = set(np.flatnonzero(tokens).tolist())
    if max(1, round(fraction * len(readable))) >= len(readable):
        with pytest.raises(ValueError, match="too few to hold one out"):
            split_images(tokens, fraction)
        return
    shard = np.arange(len(tokens)) // (per_shard or 4)
    train, val = split_images(tokens, fraction, shard=shard if whole_shards else None)
    assert set(train.tolist()) | set(val.tolist()) == readable and len(train) + len(val) == len(readable)
    assert len(val) == max(1, round(fraction * len(readable))) and val.tolist() == sorted(val.tolist())
    if whole_shards:  # at most one shard is on both sides
        assert len(set(shard[train].tolist()) & set(shard[val].tolist())) <= 1


def test_the_token_limit_shortens_the_held_out_part_alone():
    tokens = np.full(100, 16)
    train, val = split_images(tokens, 0.25, most_tokens=70)
    assert len(train) == 75 and len(val) == 4
    assert len(split_images(tokens, 0.25, most_tokens=1)[1]) == 1
    assert set(val.tolist()) <= set(split_images(tokens, 0.25)[1].tolist())
