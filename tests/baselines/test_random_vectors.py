"""Random vectors against NumPy: codes by matching and by least squares, what all projections tell, and three ways to draw."""

import numpy as np
import pytest
import torch

from saev.baselines import RandomVectors
from saev.baselines.random_vectors import RandomVectorsDictionary
from saev.baselines.refit import least_squares_on
from saev.dictionary import Dictionary
from saev.nn.normalise import Normaliser
from saev.shards import Moments

N, D = 800, 12
RNG = np.random.default_rng(0)
X = torch.from_numpy(RNG.normal(size=(N, D)) @ RNG.normal(size=(D, D)) + np.linspace(-3, 9, D)).float()
TOKENS = torch.arange(N)


def normaliser(mode="scalar"):
    return Normaliser.fit(Moments.of(X.numpy()), mode)


def started(mode="scalar", **settings):
    fit = RandomVectors(**({"n_latents": 20, "k": None, "refit": False} | settings)).build()
    z = normaliser(mode)(X)
    fit.start(normaliser(mode), z[:100], N)
    return fit, z


def fitted(mode="scalar", parts=3, **settings):
    fit, z = started(mode, **settings)
    for chosen in TOKENS.chunk(parts):
        fit.update(z[chosen], chosen)
    assert fit.finish_pass() == {}
    return fit.dictionaries()[""]


def nmse(dictionary, x=X):
    return float((x - dictionary.decode(dictionary.encode(x))).square().sum() / (x - x.mean(0)).square().sum())


def random_atoms(n, seed=1):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.5, 3, n)[:, None]


@pytest.mark.parametrize("refit", [False, True])
def test_codes_are_those_of_matching_or_of_least_squares(refit):
    atoms = random_atoms(30)
    dictionary = RandomVectorsDictionary(normaliser(), atoms, k=4, refit=refit)
    z, a = normaliser()(X).double().numpy(), atoms.double().numpy()
    unit = a / np.linalg.norm(a, axis=1, keepdims=True)
    wanted = np.zeros((N, 30))
    for row, y in enumerate(z):
        h = np.maximum(unit @ y, 0)
        support = np.argsort(-h)[:4]
        support = support[h[support] > 0]
        if refit:
            wanted[row, support] = np.linalg.lstsq(a[support].T, y)[0]
        else:
            wanted[row, support] = h[support] / np.linalg.norm(a[support], axis=1)
    np.testing.assert_allclose(dictionary.encode(X), wanted, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(normaliser()(dictionary(X)), wanted @ a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["tokens", "gaussian", "untrained"])
@pytest.mark.parametrize("mode", ["scalar", "none"])
def test_refitting_never_explains_less_than_the_centre_and_more_with_more_atoms(variant, mode):
    errors = [nmse(fitted(mode, variant=variant, n_latents=64, k=k, refit=True)) for k in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    if variant != "untrained" or mode == "scalar":  # an untrained one knows no mean but the normaliser's
        assert 0 < errors[-1] < errors[0] < 1
    assert errors[-1] <= nmse(fitted(mode, variant=variant, n_latents=64, k=8))


def test_atoms_that_depend_on_each_other_share_what_they_explain():
    y = torch.tensor([[3.0, 4.0, 1.0], [0.0, 0.0, 0.0]])
    unit = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    kept, used = torch.tensor([[0, 1, 2], [2, 1, 0]]), torch.tensor([[True] * 3, [False] * 3])
    found = least_squares_on(y, unit, kept, used)
    torch.testing.assert_close(found, torch.tensor([[1.5, 1.5, 4.0], [0.0, 0.0, 0.0]]))


def test_places_that_are_not_positive_stay_out_of_the_support():
    atoms = torch.eye(D)[:3]
    dictionary = RandomVectorsDictionary(Normaliser(torch.zeros(D), torch.ones(())), atoms, k=3, refit=True)
    x = torch.zeros(1, D)
    x[0, :3] = torch.tensor([2.0, -1.0, 0.0])
    torch.testing.assert_close(dictionary.encode(x), torch.tensor([[2.0, 0.0, 0.0]]))


@pytest.mark.parametrize("n", [5, D, 40])
def test_all_projections_tell_what_lies_in_the_span(n):
    atoms = random_atoms(n)
    dictionary = RandomVectorsDictionary(normaliser(), atoms)
    z, a = normaliser()(X).double().numpy(), atoms.double().numpy()
    codes = dictionary.encode(X)
    np.testing.assert_allclose(codes, z @ a.T / np.square(a).sum(1), rtol=1e-3, atol=1e-5)
    assert bool((codes < 0).any())
    np.testing.assert_allclose(normaliser()(dictionary(X)), z @ np.linalg.pinv(a) @ a, rtol=1e-2, atol=1e-3)
    assert nmse(dictionary) < 1 and (nmse(dictionary) < 1e-6) == (n >= D)


def test_tokens_are_tokens_seen_from_their_mean():
    raw = fitted("none", centred=False, unit_norm=False).atoms
    distance = (raw[:, None] - X).norm(dim=2).min(1)
    assert float(distance.values.max()) == 0 and len(distance.indices.unique()) == 20
    centred = fitted("none", unit_norm=False)
    torch.testing.assert_close(centred.centre, X.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(centred.atoms, raw - X.mean(0), rtol=1e-5, atol=1e-5)
    unit = fitted("none").atoms
    torch.testing.assert_close(unit, torch.nn.functional.normalize(centred.atoms), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("centred", [True, False])
def test_gaussians_have_the_mean_and_covariance_of_the_data(centred):
    atoms = fitted("none", variant="gaussian", n_latents=200_000, centred=centred, unit_norm=False, k=1).atoms.double()
    mean = torch.zeros(D).double() if centred else X.double().mean(0)
    torch.testing.assert_close(atoms.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(atoms.T.cov(), X.double().T.cov(), rtol=0.03, atol=0.2)


def test_untrained_ones_are_unit_rows_that_need_no_pass():
    fit, _ = started(variant="untrained", n_latents=3000)
    assert fit.n_passes == 0
    atoms = fit.dictionaries()[""].atoms
    torch.testing.assert_close(atoms.norm(dim=1), torch.ones(3000))
    torch.testing.assert_close(atoms.T @ atoms / 3000, torch.eye(D) / D, rtol=0, atol=0.01)


@pytest.mark.parametrize("variant", ["tokens", "gaussian", "untrained"])
def test_neither_batches_nor_processes_change_the_vectors_but_the_seed_does(variant):
    one = fitted(variant=variant, parts=1)
    torch.testing.assert_close(fitted(variant=variant, parts=11).atoms, one.atoms, rtol=1e-6, atol=1e-7)
    (a, z), (b, _) = started(variant=variant), started(variant=variant)
    a.update(z[:300], TOKENS[:300])
    b.update(z[300:], TOKENS[300:])
    a.merge(b)
    torch.testing.assert_close(a.dictionaries()[""].atoms, one.atoms, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(a.dictionaries()[""].centre, one.centre, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(fitted(variant=variant, seed=1).atoms, one.atoms)


@pytest.mark.parametrize("variant", ["tokens", "gaussian", "untrained"])
def test_an_interrupted_fit_resumes_bit_for_bit(variant):
    (whole, z), (first, _), (second, _) = (started(variant=variant) for _ in range(3))
    for fit in (whole, first):
        fit.update(z[:300], TOKENS[:300])
    second.load_state_dict(first.state_dict())
    for fit in (whole, second):
        fit.update(z[300:], TOKENS[300:])
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"k": 3, "refit": True}, {"k": None, "refit": False}])
def test_it_is_made_anew_by_its_settings_and_tensors(settings):
    dictionary = fitted("none", **settings)
    assert isinstance(dictionary, Dictionary) and dictionary.settings() == settings
    again = RandomVectorsDictionary(normaliser(), torch.zeros(20, D), **dictionary.settings())
    again.load_state_dict(dictionary.state_dict())
    torch.testing.assert_close(again(X), dictionary(X), rtol=0, atol=0)


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="variant=uniform: choose tokens, gaussian or untrained"):
        RandomVectors(5, variant="uniform")
    with pytest.raises(ValueError, match="k=6: must be at most n_latents=5"):
        RandomVectors(5, k=6)
    with pytest.raises(ValueError, match="n_latents=900: an epoch has only 800 tokens"):
        started(n_latents=900)
    with pytest.raises(ValueError, match="k=9 must be between 1 and n_latents=3"):
        RandomVectorsDictionary(normaliser(), torch.eye(D)[:3], k=9)
