"""Fidelity against SciPy's entropy and scikit-learn's cosine."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import accuracy_score
from sklearn.metrics.pairwise import paired_cosine_distances

from saev.metrics.fidelity import FeatureFidelity, PredictionFidelity, kl_divergence, linear_logits, recovered

RNG = np.random.default_rng(0)
CLEAN = RNG.normal(size=(60, 9)).astype(np.float32)
CHANGED = (CLEAN + RNG.normal(size=CLEAN.shape)).astype(np.float32)


def _fed(make, cuts=(60,)):
    metric = make()
    for start, stop in zip([0, *cuts[:-1]], cuts, strict=True):
        metric.update(torch.from_numpy(CLEAN[start:stop]), torch.from_numpy(CHANGED[start:stop]))
    return metric


@pytest.mark.parametrize("cuts", [(60,), (1, 2, 60)])
def test_features(cuts):
    a, b = CLEAN.astype(float), CHANGED.astype(float)
    found = {name: value.item() for name, value in _fed(FeatureFidelity, cuts).compute().items()}
    expected = {"error": ((a - b) ** 2).sum() / (a**2).sum(), "cosine": 1 - paired_cosine_distances(a, b).mean()}
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("cuts", [(60,), (1, 2, 60)])
def test_predictions(cuts):
    p, q = softmax(CLEAN.astype(float), 1), softmax(CHANGED.astype(float), 1)
    found = {name: value.item() for name, value in _fed(PredictionFidelity, cuts).compute().items()}
    agreement = accuracy_score(p.argmax(1), q.argmax(1))
    assert found == pytest.approx({"agreement": agreement, "kl": entropy(p, q, axis=1).mean()}, rel=1e-9)
    assert 0 < agreement < 1


@pytest.mark.parametrize("make", [FeatureFidelity, PredictionFidelity])
def test_merged_halves_are_one_pass_and_nothing_changed_is_exact(make):
    first, second = make(), make()
    first.update(torch.from_numpy(CLEAN[:10]), torch.from_numpy(CHANGED[:10]))
    second.update(torch.from_numpy(CLEAN[10:]), torch.from_numpy(CHANGED[10:]))
    first.merge_state(second)
    assert {k: v.item() for k, v in first.compute().items()} == pytest.approx(
        {k: v.item() for k, v in _fed(make).compute().items()}, rel=1e-12
    )
    same = make()
    same.update(torch.from_numpy(CLEAN), torch.from_numpy(CLEAN))
    values = {name: value.item() for name, value in same.compute().items()}
    assert values.get("error", 0) == values.get("kl", 0) == 0
    assert values.get("cosine", 1) == pytest.approx(1) and values.get("agreement", 1) == 1


def test_large_logits_do_not_overflow():
    clean, changed = torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]])
    assert kl_divergence(clean, changed).item() == pytest.approx(1000.0)


def test_recovered_between_its_ends():
    assert recovered(torch.tensor(0.0), torch.tensor(3.0)).item() == 1
    assert recovered(torch.tensor(3.0), torch.tensor(3.0)).item() == 0


def test_heads_are_linear_or_zero_shot():
    x = torch.from_numpy(CLEAN[:4])
    weight, bias = torch.from_numpy(RNG.normal(size=(3, 9))), torch.from_numpy(RNG.normal(size=3))
    expected = CLEAN[:4].astype(float) @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(linear_logits(x.double(), {"weight": weight, "bias": bias}), expected, rtol=1e-6)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (CLEAN[:4].astype(float), weight.numpy())]
    found = linear_logits(x.double(), {"weight": weight, "logit_scale": torch.tensor(50.0)})
    np.testing.assert_allclose(found, 50 * unit[0] @ unit[1].T, rtol=1e-6)
    with pytest.raises(ValueError, match="takes 9 dimensions, the pooled features have 5"):
        linear_logits(x[:, :5], {"weight": weight})
