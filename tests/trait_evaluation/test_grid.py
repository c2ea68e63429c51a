"""Choosing prototypes over the grid equals the protocol written out; planted prototypes are chosen."""

import numpy as np
import pytest
from scipy.sparse import csc_matrix
from sklearn.metrics import average_precision_score
from trait_evaluation.protocol import labels, reference, scores

from saev.scoring import blocks as module
from saev.scoring.blocks import blocks
from saev.trait_evaluation.grid import Grid, choose


@pytest.mark.slow
@pytest.mark.parametrize("convert", [np.asarray, csc_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("compat", [False, True], ids=["strict", "saev"])
@pytest.mark.parametrize("entries", [40, 1 << 21], ids=["many blocks", "one block"])
def test_choices_are_those_of_the_protocol(convert, compat, entries, monkeypatch):
    monkeypatch.setattr(module, "ENTRIES", entries)
    train, test = scores(50, 23, 0.4, 0), scores(40, 23, 0.4, 1)
    traits, on_test = labels(50, 6, 2), labels(40, 6, 3)
    cells = Grid.of([5, 16, 99], [4, 20], [0, 1, 2], 23, 50)
    assert cells.n_prototypes == (5, 16, 23) and cells.n_train == (4, 20, 50)
    advanced = []
    choices = choose(convert(train), convert(test), traits, on_test, cells, compat, advanced.append)
    assert sum(advanced) == 23
    for (seed, n, k, t), (prototype, ap, test_ap) in reference(train, test, traits, on_test, cells, compat).items():
        at = cells.seeds.index(seed), cells.n_train.index(n), cells.n_prototypes.index(k), t
        if compat and prototype < 0:
            continue
        assert choices.prototype[at] == prototype
        np.testing.assert_allclose((choices.train_ap[at], choices.test_ap[at]), (ap, test_ap), atol=1e-12)


def test_smaller_sets_are_subsets_of_larger_ones_and_seeds_differ():
    cells = Grid.of([8], [8], [0, 1], 32, 40)
    first, second = (cells.order(seed, 32, "prototypes") for seed in cells.seeds)
    assert sorted(first) == list(range(32)) and list(first) != list(second)
    assert list(cells.order(0, 32, "prototypes")) == list(first)
    assert list(cells.order(0, 32, "units")) != list(first)


@pytest.mark.slow
def test_planted_prototypes_are_chosen_and_others_lose_by_what_their_ties_say():
    """Prototype 3 fires where trait 0 is, 5 on half of trait 1; the rest is silent."""
    traits = np.zeros((40, 2), np.int8)
    traits[:10, 0] = traits[20:30, 1] = 1
    train = np.zeros((40, 8), np.float32)
    train[:10, 3] = 1
    train[20:25, 5] = 2
    cells = Grid.of([], [], [0], 8, 40)
    choices = choose(csc_matrix(train), csc_matrix(train), traits, traits, cells)
    assert choices.prototype[0, 0, 0].tolist() == [3, 5]
    # the 5 that fire first, then 5 more among 35 ties
    among_ties = np.mean(
        [np.sum([(5 + i + 1) / (5 + r + 1) for i, r in enumerate(np.sort(np.random.default_rng(s).permutation(35)[:5]))])
         for s in range(4000)]
    )  # fmt: skip
    assert choices.test_ap[0, 0, 0, 0] == 1
    assert choices.test_ap[0, 0, 0, 1] == pytest.approx((5 + among_ties) / 10, abs=0.003)
    silent = choose(csc_matrix((40, 8), dtype=np.float32), csc_matrix((40, 8), dtype=np.float32), traits, traits, cells)
    orders = [average_precision_score(traits[:, 0], np.random.default_rng(s).permutation(40)) for s in range(4000)]
    assert silent.test_ap[0, 0, 0].tolist() == pytest.approx([np.mean(orders)] * 2, abs=0.005)


def test_equal_prototypes_are_chosen_by_the_seed_and_under_compat_by_index():
    traits = (np.arange(30) < 6).astype(np.int8)[:, None]
    same = np.repeat(traits.astype(np.float32), 50, axis=1)
    cells = Grid.of([], [], [0, 1, 2], 50, 30)
    chosen = choose(same, same, traits, traits, cells).prototype.ravel()
    assert chosen.tolist() == [cells.order(seed, 50, "prototypes")[0] for seed in range(3)]
    assert choose(same, same, traits, traits, cells, compat=True).prototype.ravel().tolist() == [0, 0, 0]


def test_blocks_cover_all_prototypes_within_the_bound(monkeypatch):
    monkeypatch.setattr(module, "ENTRIES", 100)
    sparse = csc_matrix(scores(50, 23, 0.1, 0))
    ranges = list(blocks(sparse, sparse, 5))
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])] and ranges[-1][1] == 23
    counts = np.diff(sparse.indptr)
    assert all(stop - start == 1 or counts[start:stop].sum() * 5 <= 100 for start, stop in ranges)
