"""The best k latents together: planted unions are found, the working set's path is that of all latents, greedy beats all others."""

from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array
from sklearn.linear_model import LogisticRegression

from saev.probing.sparse import sparse_probes as module
from saev.probing.sparse.linear_fits import refit, standardised
from saev.probing.sparse.sparse_probes import L1Path, greedy, sparse_probes

N, LATENTS = 2000, 120


def codes(seed=0, n=N, latents=LATENTS, density=0.04):
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((n, latents)) < density, 0.1 + rng.exponential(size=(n, latents)), 0)
    return standardised(csr_array(x), csr_array(x))[0]


def union(x, latents, spoilt=0.0, seed=1):
    """Rows on which any of these latents fires; a fraction of labels drawn anew."""
    y = x[:, latents].toarray().any(1)
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(y)) < spoilt, rng.random(len(y)) < y.mean(), y)


@pytest.mark.parametrize("selection", ("l1", "greedy"))
@pytest.mark.parametrize("spoilt", [0.0, 0.2])
@pytest.mark.parametrize("planted", [[17, 90], [5, 40, 119]])
def test_a_union_of_latents_is_found_by_as_many_and_beats_one(selection, spoilt, planted):
    x = codes()
    y = union(x, planted, spoilt)
    found = sparse_probes(x, y, [1, len(planted)], selection)
    assert sorted(found[len(planted)].latents) == planted and set(found[1].latents) < set(planted)
    assert found[len(planted)].loss < 0.9 * found[1].loss and (found[len(planted)].weights > 0).all()
    assert all(fit.converged for fit in found.values())


@pytest.mark.parametrize("selection", ("l1", "greedy"))
def test_scale_does_not_matter(selection):
    x = codes()
    y = union(x, [3, 4, 8], 0.2)
    factor = 10.0 ** np.random.default_rng(0).integers(-4, 5, LATENTS)
    scaled = csr_array(x.toarray() * factor)
    other = sparse_probes(standardised(scaled, scaled)[0], y, [4], selection)[4]
    one = sparse_probes(x, y, [4], selection)[4]
    assert [*other.latents] == [*one.latents] and other.loss == pytest.approx(one.loss, rel=1e-6)


@pytest.mark.parametrize("selection", ("l1", "greedy"))
def test_a_probe_is_the_unpenalised_fit_on_its_latents(selection):
    x = codes()
    y = union(x, [3, 4, 8], 0.2)
    for fit in sparse_probes(x, y, [2, 5], selection).values():
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(x[:, fit.latents].toarray(), y)
        np.testing.assert_allclose(fit.weights, model.coef_[0], rtol=1e-4)


@pytest.mark.parametrize("multiple", [1.3, 3.0, 8.0])
def test_the_path_from_working_sets_is_that_of_all_latents_without_a_penalty_on_the_intercept(multiple, monkeypatch):
    monkeypatch.setattr(module, "WIDTH", 3)  # so that latents have to join
    x = codes(density=0.1)
    y = union(x, [3, 4, 8, 20, 33], 0.5)
    path = L1Path(x, y)
    support = path.at(multiple * path.first)
    model = LogisticRegression(l1_ratio=1.0, C=multiple * path.first, solver="saga", tol=1e-7, max_iter=5000)
    model.fit(x.toarray(), y)
    assert [*support.latents] == [*np.flatnonzero(model.coef_[0])] and support.converged
    assert multiple < 2 or len(support.latents) > 3


def test_codes_far_from_zero_have_the_path_of_centred_ones():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 20))
    y = x[:, 2] + x[:, 5] - x[:, 11] + rng.normal(size=N) > 1
    far, near = (standardised(csr_array(x + shift), csr_array(x))[0] for shift in (50, 0))
    for k, fit in sparse_probes(far, y, [1, 3, 5], "l1").items():
        other = sparse_probes(near, y, [k], "l1")[k]
        assert [*fit.latents] == [*other.latents] and len(fit.latents) == k and fit.converged
        np.testing.assert_allclose(fit.weights, other.weights, rtol=1e-5)


def test_nothing_enters_before_the_first_c():
    x = codes()
    y = union(x, [3, 4, 8], 0.2)
    path = L1Path(x, y)
    assert len(path.at(0.999 * path.first).latents) == 0 and len(path.at(1.001 * path.first).latents) == 1


def test_no_c_leaves_exactly_k_where_two_enter_together():
    """Twins: on the same number of rows, never on the same one, and as telling; either none has a weight or both."""
    x = np.zeros((400, 3))
    x[:40, 0] = x[40:80, 1] = 1
    x[80:90, 2] = 1
    x = standardised(csr_array(x), csr_array(x))[0]
    y = np.arange(400) % 4 < 1
    y[:80:2] = True
    found = sparse_probes(x, y, [1, 2], "l1")
    assert [*found[2].latents] == [0, 1] and len(found[1].latents) <= 1


@pytest.mark.slow
def test_each_greedy_step_is_the_best_of_all_latents_that_are_tried():
    x = codes(latents=30, density=0.15)
    y = union(x, [3, 4, 8], 0.3)
    found = greedy(x, y, [1, 2, 3, 4], candidates=30)
    chosen: list[int] = []
    for k, fit in found.items():
        losses = {j: refit(x, y, [*chosen, j]).loss for j in range(30) if j not in chosen}
        assert fit.loss == min(losses.values()) and [*fit.latents] == [*chosen, min(losses, key=losses.__getitem__)]
        chosen = fit.latents.tolist()
        assert len(chosen) == k


def test_greedy_finds_the_best_pair_of_a_union():
    x = codes(latents=12, density=0.1)
    y = union(x, [3, 7], 0.3)
    best = min(combinations(range(12), 2), key=lambda pair: refit(x, y, list(pair)).loss)
    assert sorted(greedy(x, y, [2], candidates=4)[2].latents) == [*best] == [3, 7]


def test_where_nothing_is_left_to_explain_greedy_adds_no_latents():
    x = codes()
    assert sorted(sparse_probes(x, union(x, [6, 7]), [16], "greedy")[16].latents) == [6, 7]


def test_codes_that_tell_nothing_give_the_prevalence():
    dead, y = csc_array(np.zeros((50, 4))), np.arange(50) < 5
    for selection in ("l1", "greedy"):
        fit = sparse_probes(dead, y, [3], selection)[3]
        assert len(fit.latents) == 0 and fit.bias == pytest.approx(np.log(0.1 / 0.9))


def test_a_solver_that_gives_up_is_reported(monkeypatch):
    solver = module.LogisticRegression
    monkeypatch.setattr(module, "LogisticRegression", lambda **own: solver(**{**own, "max_iter": 1}))
    x = codes()
    assert not sparse_probes(x, union(x, [3, 4, 8], 0.2), [3], "l1")[3].converged


def test_bad_values_are_refused():
    x = codes()
    for y in (np.zeros(N, bool), np.ones(N, bool)):
        with pytest.raises(ValueError, match=f"of {N} rows"):
            sparse_probes(x, y, [1], "l1")
