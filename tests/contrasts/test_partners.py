"""Partners in another dictionary: correlation and Jaccard equal a loop, planted partners are recovered, noise has none."""

import numpy as np
import pytest
from contrasts.pairs import codes
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csc_matrix

from saev.contrasts import partners as module
from saev.contrasts.partners import partners, runs_with_partner


def top(values, n):
    order = np.argsort(-values, kind="stable")[:n]
    return {int(i) for i in order if values[i] > 0}


@pytest.mark.parametrize("convert", [np.asarray, csc_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("entries", [90, 1 << 21], ids=["many blocks", "one block"])
def test_partners_are_those_of_a_loop(convert, entries, monkeypatch):
    monkeypatch.setattr(module, "ENTRIES", entries)
    one, other, latents = codes(40, 9), codes(40, 14, seed=1), np.array([7, 2, 0, 5])
    result = partners(convert(one), latents, convert(other), top=6, n_null=3, seed=2)
    correlation = np.zeros((4, 14))
    for i, j in enumerate(latents):
        for k in range(14):
            if np.ptp(one[:, j]) and np.ptp(other[:, k]):
                correlation[i, k] = np.corrcoef(one[:, j], other[:, k])[0, 1]
    rows, columns = linear_sum_assignment(correlation, maximize=True)
    np.testing.assert_allclose(result.correlation, correlation[rows, columns], atol=1e-5)
    assert len({*result.latent.tolist()}) == 4
    for i, (j, k) in enumerate(zip(latents, result.latent, strict=True)):
        assert correlation[i, k] == pytest.approx(result.correlation[i], abs=1e-5)
        a, b = top(one[:, j], 6), top(other[:, k], 6)
        assert result.jaccard[i] == pytest.approx(len(a & b) / max(len(a | b), 1))
    rng = np.random.default_rng(2)
    shuffles = [rng.permutation(40) for _ in range(3)]
    nulls = [max(np.corrcoef(one[s, 7], other[:, k])[0, 1] for k in range(14) if k != 2) for s in shuffles]
    assert result.null[0] == pytest.approx(max(nulls), abs=1e-5)
    assert result.correlation[1] == result.null[1] == 0  # latent 2 is silent


def test_planted_partners_are_recovered_and_noise_has_none():
    rng = np.random.default_rng(0)
    one = codes(300, 20)
    latents = np.arange(3, 13)
    found = []
    for run in range(3):
        other, at = codes(300, 50, seed=10 + run), rng.permutation(50)[:5]
        other[:, at] = one[:, latents[:5]] * 2 + (rng.random((300, 5)) < 0.02)
        found.append(partners(csc_matrix(one), latents, csc_matrix(other), seed=run))
        assert found[-1].latent[:5].tolist() == at.tolist()
        assert (found[-1].correlation[:5] > 0.9).all() and (found[-1].null < 0.5).all()
    assert runs_with_partner(found).tolist() == [3] * 5 + [0] * 5


def test_a_dictionary_that_is_smaller_than_the_latents_given():
    one = codes(50, 8)
    result = partners(one, np.arange(3, 8), one[:, 5:7], n_null=0)
    assert result.latent.tolist() == [-1, -1, 0, 1, -1] and result.matched().tolist() == [
        False,
        False,
        True,
        True,
        False,
    ]
