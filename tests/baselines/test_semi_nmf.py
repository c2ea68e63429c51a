"""Semi-NMF against the full-batch algorithm in NumPy, its codes against SciPy's exact NNLS."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from saev.baselines import SemiNMF
from saev.baselines.semi_nmf import SemiNMFDictionary, best_atoms, nonnegative_codes
from saev.dictionary import Dictionary
from saev.nn.normalise import Normaliser

N, D, K = 600, 10, 6
RNG = np.random.default_rng(0)
PARTS = RNG.normal(size=(K, D))
X = torch.from_numpy(RNG.gamma(0.5, size=(N, K)) @ PARTS + 0.1 * RNG.normal(size=(N, D))).float()
NORMALISER = Normaliser(torch.zeros(D), X.square().mean().sqrt())  # parts add up from zero
Z = NORMALISER(X)
TOKENS = torch.arange(N)


def started(**settings):
    fit = SemiNMF(**({"n_latents": K, "passes": 12, "iterations": 300} | settings)).build()
    fit.start(NORMALISER, Z, N)
    return fit


def fitted(parts=4, **settings):
    fit, log = started(**settings), []
    for _ in range(fit.n_passes):
        for chosen in TOKENS.chunk(parts):
            fit.update(Z[chosen], chosen)
        log.append(fit.finish_pass())
    return fit, log


def exact_codes(z, a):
    return np.stack([nnls(a.T, row)[0] for row in z])


@pytest.mark.parametrize("n", [4, K, 9])
def test_codes_are_those_of_exact_nnls(n):
    a = torch.nn.functional.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(n)), dim=1)
    codes = nonnegative_codes(Z.double(), a.double(), 500)
    np.testing.assert_allclose(codes, exact_codes(Z.double().numpy(), a.double().numpy()), atol=1e-5)
    assert bool((codes == 0).any()) and bool((codes >= 0).all())


def test_l1_codes_fulfil_the_conditions_of_optimality():
    a = torch.nn.functional.normalize(torch.randn(K, D, generator=torch.Generator().manual_seed(1)), dim=1).double()
    codes = nonnegative_codes(Z.double(), a, 1000, l1=0.5)
    gradient = (codes @ a - Z.double()) @ a.T + 0.5
    assert float(gradient.min()) > -1e-5 and float(gradient[codes > 0].abs().max()) < 1e-5
    plain = nonnegative_codes(Z.double(), a, 1000)
    assert float(codes.sum()) < float(plain.sum()) and float((codes > 0).sum()) < float((plain > 0).sum())


@pytest.mark.slow
def test_it_follows_the_full_batch_algorithm():
    """Exact NNLS for the codes, least squares for the atoms, from the same start."""
    fit, log = fitted(iterations=3000)  # two centroids of the start are nearly opposite: codes take long there
    a, z = started().atoms.double().numpy(), Z.double().numpy()
    errors = []
    for _ in range(12):
        f = exact_codes(z, a)
        errors.append(np.square(z - f @ a).mean())
        a = np.linalg.lstsq(f, z)[0]
        a /= np.linalg.norm(a, axis=1, keepdims=True)
    np.testing.assert_allclose([entry["mse"] for entry in log], errors, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(fit.atoms, a, atol=0.05)


def ding(z, f, passes):
    """The multiplicative algorithm of the paper, on all tokens at once: squared error per value after each pass."""
    errors = []
    for _ in range(passes):
        a = np.linalg.pinv(f.T @ f) @ f.T @ z
        p, q = z @ a.T, a @ a.T
        f = f * np.sqrt((np.maximum(p, 0) + f @ np.maximum(-q, 0)) / (np.maximum(-p, 0) + f @ np.maximum(q, 0) + 1e-12))
        errors.append(np.square(z - f @ a).mean())
    return errors


@pytest.mark.slow
def test_it_ends_no_higher_than_the_multiplicative_algorithm():
    _, log = fitted(passes=40)
    z, a = Z.double().numpy(), started().atoms.double().numpy()
    assert log[-1]["mse"] <= 1.02 * ding(z, exact_codes(z, a) + 0.2, 200)[-1]


@pytest.mark.parametrize("l1", [0.0, 0.3])
def test_what_is_minimised_falls_from_pass_to_pass(l1):
    fit, log = fitted(l1_penalty=l1)
    objective = np.array([entry["objective"] for entry in log])
    assert bool((np.diff(objective) <= 1e-6).all()) and objective[-1] < 0.97 * objective[0]
    assert float(fit.atoms.norm(dim=1).max()) < 1 + 1e-5


def test_a_pass_reports_its_own_error():
    fit = started()
    codes = nonnegative_codes(Z, fit.atoms, 300).double()
    error = float((Z.double() - codes @ fit.atoms.double()).square().mean())
    fit.update(Z, TOKENS)
    assert fit.finish_pass() == pytest.approx(
        {
            "mse": error,
            "l0": float((codes > 0).sum(1).double().mean()),
            "used": 1.0,
            "objective": error * D / 2,
        },
        rel=1e-6,
    )


@pytest.mark.parametrize("bounded", [False, True])
def test_atoms_that_no_token_uses_stay(bounded):
    f = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).double()
    f[:, 2] = 0
    z, atoms = Z[:50].double(), torch.eye(D)[:4].double()
    found = best_atoms(f.T @ f, f.T @ z, atoms, bounded)
    torch.testing.assert_close(found[2], atoms[2])
    if not bounded:
        exact = torch.linalg.lstsq(f[:, [0, 1, 3]], z).solution
        torch.testing.assert_close(found[[0, 1, 3]], torch.nn.functional.normalize(exact, dim=1), rtol=1e-8, atol=1e-8)


def test_neither_batches_nor_processes_change_a_pass():
    one, _ = fitted(parts=1, passes=3)
    torch.testing.assert_close(fitted(parts=7, passes=3)[0].atoms, one.atoms, rtol=1e-4, atol=1e-5)
    a, b, whole = started(), started(), started()
    for fit, chosen in ((a, TOKENS[:200]), (b, TOKENS[200:]), (whole, TOKENS[:200]), (whole, TOKENS[200:])):
        fit.update(Z[chosen], chosen)
    a.merge(b)
    torch.testing.assert_close(a.state_dict(), whole.state_dict(), rtol=1e-12, atol=1e-12)


def test_a_fit_interrupted_in_a_pass_resumes_bit_for_bit():
    whole, first, second = started(), started(), started()
    for fit in (whole, first):
        fit.update(Z, TOKENS)
        fit.finish_pass()
        fit.update(Z[:100], TOKENS[:100])
    second.load_state_dict(first.state_dict())
    for fit in (whole, second):
        fit.update(Z[100:], TOKENS[100:])
        fit.finish_pass()
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_it_is_made_anew_by_its_settings_and_tensors():
    dictionary = fitted(passes=2, l1_penalty=0.1)[0].dictionaries()[""]
    assert isinstance(dictionary, Dictionary) and dictionary.settings() == {"iterations": 300, "l1_penalty": 0.1}
    again = SemiNMFDictionary(NORMALISER, torch.zeros(K, D), **dictionary.settings())
    again.load_state_dict(dictionary.state_dict())
    torch.testing.assert_close(again(X), dictionary(X), rtol=0, atol=0)


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ValueError, match=r"iterations=0, l1_penalty=0\.0"):
        SemiNMFDictionary(NORMALISER, torch.eye(D), iterations=0)
    with pytest.raises(ValueError, match=r"n_latents=601: more atoms than tokens \(600\)"):
        started(n_latents=601)
    with pytest.raises(ValueError, match="passes=0: must be at least 1"):
        SemiNMF(K, passes=0)
    for settings, message in (
        ({"iterations": 0}, "iterations=0: must"),
        ({"l1_penalty": -1.0}, r"l1_penalty=-1\.0: must"),
    ):
        with pytest.raises(ValueError, match=message):  # before the first pass
            SemiNMF(K, **settings)
