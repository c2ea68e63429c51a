"""Selections against a loop over tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.shards import selection
from saev.shards.selection import per_image, per_label, per_position, positions, select


@st.composite
def cases(draw):
    tokens = np.array(draw(st.lists(st.integers(0, 9), min_size=1, max_size=20)))
    n = int(tokens.sum())
    labels = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.uint16)
    examples = np.array(draw(st.permutations(range(len(tokens)))))[: draw(st.integers(1, len(tokens)))]
    ignore = draw(st.sets(st.integers(0, 3), max_size=3))
    limit = draw(st.none() | st.integers(0, n + 2))
    start, stop = draw(st.sampled_from([(0, -1), (0, 1), (1, -1), (2, 5)]))
    return tokens, examples, (start, stop), labels, ignore, limit


def by_loop(tokens, examples, part, labels, ignore, limit):
    first, taken = np.cumsum(tokens) - tokens, []
    for e in examples.tolist():
        stop = tokens[e] if part[1] < 0 else min(part[1], tokens[e])
        taken += [(e, t) for t in range(part[0], stop) if labels[first[e] + t] not in ignore]
    return sorted(taken if limit is None else taken[:limit])


@settings(max_examples=200, deadline=None)
@given(cases(), st.sampled_from([2, 4096]))
def test_selects_what_a_loop_selects(case, block):
    tokens, _, _, labels, _, _ = case
    before, selection.BLOCK = selection.BLOCK, block
    try:
        runs = select(*case)
        labels_found = per_label(runs, tokens, labels)
    finally:
        selection.BLOCK = before
    run, token = positions(runs)
    expected = by_loop(*case)
    assert list(zip(runs.example[run].tolist(), token.tolist(), strict=True)) == expected
    assert runs.n_tokens == len(expected) and (runs.stop > runs.start).all()
    first = np.cumsum(tokens) - tokens
    found = [int(labels[first[e] + t]) for e, t in expected]
    np.testing.assert_array_equal(labels_found[:4], np.bincount(found, minlength=4))
    np.testing.assert_array_equal(
        per_image(runs, len(tokens)), np.bincount([e for e, _ in expected], minlength=len(tokens))
    )
    if expected:
        np.testing.assert_array_equal(per_position(runs), np.bincount([t for _, t in expected]))


def test_larger_subsets_hold_smaller_ones():
    tokens, order = np.full(10, 4), np.random.default_rng(0).permutation(10)

    def chosen(limit):
        runs = select(tokens, order, (0, -1), limit=limit)
        run, token = positions(runs)
        return set(zip(runs.example[run].tolist(), token.tolist(), strict=True))

    assert chosen(5) < chosen(13) < chosen(40) and len(chosen(13)) == 13


def test_labels_must_be_one_per_token():
    with pytest.raises(AssertionError, match="one label per stored token"):
        select(np.array([2]), np.array([0]), (0, -1), np.zeros(3, np.uint16), {1})
