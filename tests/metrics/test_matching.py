"""Partners against NumPy's full matrices, every permutation, and planted copies."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_similarity

from saev.metrics.matching import best_matches, matched_cosines, one_to_one


def atoms(n, d_model=6, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d_model)).astype(np.float32))


def sets(n, n_images=30, seed=0):
    """Rows of 0 and 1 with ties; the first is empty."""
    rows = np.random.default_rng(seed).random((n, n_images)) < 0.2
    rows[0] = False
    return torch.from_numpy(rows.astype(np.float32))


@pytest.mark.parametrize("block", [1, 5, 2048])
def test_best_matches_are_those_of_the_whole_matrix(block):
    a, b = atoms(13), atoms(21, seed=1)
    a[3], b[4] = 0, 0
    cos = cosine_similarity(a.numpy().astype(float), b.numpy().astype(float))
    matches = best_matches(a, b, block=block)
    np.testing.assert_allclose(matches.similarity_a, cos.max(1), atol=1e-6)
    np.testing.assert_allclose(matches.similarity_b, cos.max(0), atol=1e-6)
    rest = np.arange(13) != 3
    np.testing.assert_array_equal(matches.partner_a[rest], cos.argmax(1)[rest])


@pytest.mark.parametrize("block", [1, 5, 2048])
def test_jaccard_is_that_of_sets(block):
    a, b = sets(12), sets(9, seed=1)
    jaccard = 1 - cdist(a.bool().numpy(), b.bool().numpy(), "jaccard")
    jaccard[0, 0] = 0  # two empty sets have nothing in common; SciPy calls them equal
    matches = best_matches(a, b, "jaccard", block=block)
    np.testing.assert_allclose(matches.similarity_a, jaccard.max(1), atol=1e-6)
    np.testing.assert_allclose(matches.similarity_b, jaccard.max(0), atol=1e-6)
    np.testing.assert_array_equal(matches.partner_a, jaccard.argmax(1), "of equal ones the lower number")


@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 6), (6, 3)])
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_one_to_one_has_the_largest_sum_of_pairs_above_the_threshold(n, m, threshold):
    a, b = atoms(n, 3), atoms(m, 3, seed=1)
    partner = one_to_one(a, b, best_matches(a, b), threshold)
    cos = cosine_similarity(a.numpy().astype(float), b.numpy().astype(float))
    kept = np.where(cos >= threshold, cos, 0)
    wide = kept if n <= m else kept.T
    best = max(
        sum(wide[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(wide.shape[1]), len(wide))
    )
    chosen = np.flatnonzero(partner >= 0)
    assert len({*partner[chosen].tolist()}) == len(chosen) and (cos[chosen, partner[chosen]] >= threshold).all()
    assert cos[chosen, partner[chosen]].sum() == pytest.approx(best, abs=1e-6)


def test_duplicates_have_best_partners_and_only_one_of_them_a_one_to_one_partner():
    a = torch.eye(4)[[0, 0, 0, 1]]
    b = torch.eye(4)[[1, 0, 2]]
    matches = best_matches(a, b)
    assert (matches.similarity_a >= 0.7).tolist() == [True] * 4
    for most in (4096, 1):  # exact, and mutual best matches
        assert one_to_one(a, b, matches, 0.7, most=most).tolist() == [1, -1, -1, 0]


def test_above_the_limit_partners_are_mutual_best_matches():
    a, b = atoms(30, 3), atoms(40, 3, seed=1)
    matches = best_matches(a, b)
    few, exact = (one_to_one(a, b, matches, 0.7, most=most) for most in (3, 4096))
    cos = cosine_similarity(a.numpy(), b.numpy())
    expected = [
        j if cos[i, j := int(cos[i].argmax())] >= 0.7 and cos[:, j].argmax() == i else -1 for i in range(len(cos))
    ]
    assert few.tolist() == expected and (few >= 0).sum() <= (exact >= 0).sum()


def test_a_dictionary_in_another_order_and_scale_is_the_same():
    a = atoms(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    matches = best_matches(a, a[order] * 4)
    assert order[one_to_one(a, a[order] * 4, matches, 0.7)].tolist() == list(range(30))
    assert matches.similarity_a.numpy() == pytest.approx(np.ones(30), abs=1e-6)
    assert matched_cosines(a, a[order] * 4).numpy() == pytest.approx(np.ones(30), abs=1e-6)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 6), (6, 3)])
def test_the_assignment_of_all_is_the_best(n, m):
    a, b = atoms(n), atoms(m, seed=1)
    cos = cosine_similarity(a.numpy().astype(float), b.numpy().astype(float))
    cos = cos if n <= m else cos.T
    best = max(
        (cos[np.arange(len(cos)), list(p)] for p in itertools.permutations(range(cos.shape[1]), len(cos))), key=np.sum
    )
    assert sorted(matched_cosines(a, b).tolist()) == pytest.approx(sorted(best), abs=1e-7)


def test_directions_are_signed():
    assert best_matches(torch.eye(3), -torch.eye(3)).similarity_a.max() == 0
    assert matched_cosines(torch.eye(1), -torch.eye(1)).item() == -1.0


def test_above_the_limit_a_sample_is_assigned_to_all():
    a = atoms(40)
    pairs = matched_cosines(a, a.flip(0), most=8)
    assert len(pairs) == 8 and pairs.tolist() == pytest.approx([1] * 8)


def test_no_latents_above_the_threshold():
    a, b = torch.eye(4)[:2], torch.eye(4)[2:]
    assert one_to_one(a, b, best_matches(a, b), 0.7).tolist() == [-1, -1]
