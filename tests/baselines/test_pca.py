"""PCA against scikit-learn's full SVD, its closed-form NMSE against the measured one, and what a pass may not depend on."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as Reference

from saev.baselines import PCA
from saev.baselines.pca import PCADictionary, oriented
from saev.baselines.second_moments import SecondMoments
from saev.dictionary import Dictionary
from saev.metrics import functional as F
from saev.nn.normalise import MODES, Normaliser
from saev.shards import Moments

N, D = 3000, 24


def rows(n=N, seed=0):
    """Skewed, correlated, far from the origin in some dimensions."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(np.random.default_rng(9).normal(size=(D, D)))[0] * np.geomspace(5, 0.02, D)
    return (rng.gamma(1.5, size=(n, D)) - 1.5) @ mixing.T + np.linspace(-40, 40, D)


X = torch.from_numpy(rows()).float()
TOKENS = torch.arange(N)


def normaliser(mode="scalar"):
    return Normaliser.fit(Moments.of(X.numpy()), mode)


def fitter(mode="scalar", **settings):
    fit = PCA(**settings).build()
    z = normaliser(mode)(X)
    fit.start(normaliser(mode), z, N)
    return fit, z


def fitted(mode="scalar", batches=7, **settings):
    fit, z = fitter(mode, **settings)
    for part, token in zip(z.chunk(batches), TOKENS.chunk(batches), strict=True):
        fit.update(part, token)
    fit.finish_pass()
    return fit, z


@pytest.mark.parametrize("mode", MODES)
def test_components_and_variances_are_those_of_a_full_svd(mode):
    fit, z = fitted(mode, k=[None])
    pca = fit.dictionaries()["k=all"]
    reference = Reference(svd_solver="full").fit(z.double().numpy())
    cosines = (pca.atoms.double().numpy() * reference.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-6)
    np.testing.assert_allclose(pca.variance, reference.explained_variance_ * (N - 1) / N, rtol=1e-5)
    np.testing.assert_allclose(pca.centre, reference.mean_, rtol=1e-6, atol=1e-6)


def test_a_mean_far_from_zero_costs_no_digits():
    x = X.double() + 1e5
    moments = SecondMoments(x[:10].mean(0))
    for part in x.split(999):
        moments.add(part)
    reference = np.cov(x.numpy().T, bias=True)
    np.testing.assert_allclose(moments.covariance, reference, rtol=1e-9, atol=1e-9)


def test_coefficients_are_positively_skewed():
    fit, z = fitted(k=[None])
    codes = fit.dictionaries()["k=all"].codes(z).double()
    assert bool(((codes - codes.mean(0)).pow(3).sum(0) > 0).all())


def test_an_orientation_does_not_depend_on_the_signs_it_is_given():
    v = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)))[0].double()
    sign = torch.where(torch.arange(D) % 3 == 0, -1.0, 1.0)[:, None]
    for sample in (X, X[:0], X[:1]):  # without skewness the largest entry decides
        torch.testing.assert_close(oriented(v * sign, sample), oriented(v, sample))
    assert bool((oriented(v, X[:0]).gather(1, v.abs().argmax(1, keepdim=True)) > 0).all())


def test_the_nmse_of_the_first_components_is_the_variance_they_leave():
    """By the eigenvalues of the scatter matrix; the normaliser has one scale."""
    fit, _ = fitted(k=[None])
    values = np.linalg.eigvalsh(fit.moments.scatter.numpy())[::-1]
    for rank in (1, 5, D - 1):
        pca = fitted(k=[None], rank=rank)[0].dictionaries()["k=all"]
        assert pca.n_latents == rank and pca.atoms.shape == (rank, D)
        n, total, square = F.moments_update(X, X.mean(0))
        measured = F.nmse_compute(
            F.squared_error_update(X, pca(X)), F.variation_compute(torch.tensor(n), total, square)
        )
        assert float(measured) == pytest.approx(values[rank:].sum() / values.sum(), abs=1e-6)


def test_k_keeps_the_largest_codes_of_either_sign():
    fit, z = fitted(k=[4, None])
    found = fit.dictionaries()
    assert list(found) == ["k=4", "k=all"]
    every, kept = found["k=all"].codes(z), found["k=4"].codes(z)
    rank = every.abs().argsort(dim=1, descending=True).argsort(dim=1)
    torch.testing.assert_close(kept, torch.where(rank < 4, every, 0), rtol=0, atol=0)
    assert bool((kept < 0).any())


def test_the_published_sparsities_come_out_of_one_fit_as_far_as_they_fit():
    assert list(fitted()[0].dictionaries()) == ["k=1", "k=4", "k=16"]
    assert list(fitted(rank=4)[0].dictionaries()) == ["k=1", "k=4"]


def test_whitened_codes_have_variance_one_and_stand_for_the_same_activations():
    plain, _ = fitted(k=[None])
    white = fitted(k=[None], whiten=True)[0].dictionaries()["k=all"]
    codes = white.encode(X)
    torch.testing.assert_close(codes.double().T.cov(correction=0), torch.eye(D).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(white(X), plain.dictionaries()["k=all"](X), rtol=1e-4, atol=1e-3)


def test_a_direction_without_variance_has_whitened_code_zero():
    x = torch.cat([X[:, :8], X[:, :1]], dim=1)
    fit = PCA(k=[None], whiten=True).build()
    norm = Normaliser(x.mean(0), torch.ones(()))
    z = norm(x).double().float()
    fit.start(norm, z, N)
    fit.update(z, TOKENS)
    pca = fit.dictionaries()["k=all"]
    codes = pca.encode(x)
    assert bool(torch.isfinite(codes).all()) and not bool(codes[:, -1].any())


def test_neither_batches_nor_processes_change_the_moments():
    one, z = fitted(batches=1)
    for batches in (2, 13):
        many, _ = fitted(batches=batches)
        torch.testing.assert_close(many.moments.scatter, one.moments.scatter, rtol=1e-12, atol=1e-12 * N)
    (a, _), (b, _) = fitter(), fitter()
    a.update(z[:1000], TOKENS[:1000])
    b.update(z[1000:], TOKENS[1000:])
    a.merge(b)
    assert a.moments.count == N
    torch.testing.assert_close(a.moments.mean, one.moments.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.moments.scatter, one.moments.scatter, rtol=1e-12, atol=1e-12 * N)


def test_an_interrupted_fit_resumes_bit_for_bit():
    whole, z = fitter(k=[None])
    first, _ = fitter(k=[None])
    for fit in (whole, first):
        fit.update(z[:1000], TOKENS[:1000])
    state = first.state_dict()
    second, _ = fitter(k=[None])
    second.load_state_dict(state)
    for fit in (whole, second):
        fit.update(z[1000:], TOKENS[1000:])
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert first.moments.count == 1000 and float(first.moments.total.abs().sum()) != float(
        second.moments.total.abs().sum()
    )


@pytest.mark.parametrize("whiten", [False, True])
def test_it_is_made_anew_by_its_settings_and_tensors(whiten):
    pca = fitted(k=[3], rank=5, whiten=whiten)[0].dictionaries()["k=3"]
    assert isinstance(pca, Dictionary) and pca.settings() == {"k": 3, "rank": 5, "whiten": whiten}
    again = PCADictionary(normaliser("none"), torch.zeros(5, D), **pca.settings())
    again.load_state_dict(pca.state_dict())
    torch.testing.assert_close(again(X), pca(X), rtol=0, atol=0)


def test_a_pass_reports_the_variance_explained():
    fit, z = fitter()
    fit.update(z, TOKENS)
    reference = Reference(svd_solver="full").fit(z.double().numpy()).explained_variance_ratio_.cumsum()
    assert fit.finish_pass() == {
        f"explained_variance/rank={k}": pytest.approx(reference[k - 1], rel=1e-6) for k in (1, 4, 16)
    }


@pytest.mark.parametrize(
    ("settings", "n", "message"),
    [
        ({"rank": D + 1}, N, f"rank={D + 1} must be between 1 and {D}"),
        ({}, D, f"an epoch has {D}: lower rank"),
        ({"k": [64, 256]}, N, "k=.64, 256.: must have an entry between 1 and rank=24"),
        ({"k": [0, 4]}, N, "k=.0, 4. of PCA: must be a list of integers of at least 1"),
        ({"rank": 0}, N, "rank=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, n, message):
    with pytest.raises(ValueError, match=message):
        PCA(**settings).build().start(normaliser(), X, n)


def test_too_large_a_k_is_named():
    with pytest.raises(ValueError, match="k=6 must be between 1 and 5"):
        PCADictionary(normaliser(), torch.eye(D), k=6, rank=5)
