"""Normalisation folded into the weights: the same codes and the same reconstructions, for every sparsifier and decoder."""

import itertools

import numpy as np
import pytest
import torch
from nn.small_bank import SPARSIFIERS, train

from saev.nn import AuxK, Member, Normaliser, Plain
from saev.nn.normalise import MODES
from saev.nn.settings import Archetypal, Free
from saev.shards import Moments

ROWS = np.random.default_rng(0).normal(3, 2, size=(800, 12)) * np.linspace(0.1, 4, 12) + np.linspace(-5, 5, 12)
X = torch.from_numpy(ROWS).float()
MOMENTS = Moments.of(ROWS)
DECODERS = {"free": Free(), "archetypal": Archetypal(16, 0.3)}


def trained(mode, sparsifier, decoder):
    """A few steps in, so that biases, thresholds and norms are not those of the start."""
    normaliser = Normaliser.fit(MOMENTS, mode)
    spec = Member(
        SPARSIFIERS[sparsifier](), "a", Plain(), AuxK(), 1e-2, d_sae=48, init="archetypal", decoder=DECODERS[decoder]
    )
    member = spec.build(normaliser, normaliser(X))
    train(member, 10, normaliser(X))
    return member.sae.eval().double()


@pytest.mark.parametrize(("mode", "sparsifier", "decoder"), [*itertools.product(MODES, SPARSIFIERS, DECODERS)])
def test_folded_is_unfolded(mode, sparsifier, decoder, monkeypatch):
    # in float64: a code at its threshold falls on the same side of it in both
    monkeypatch.setattr(Normaliser, "forward", lambda self, x: (x - self.mean) / self.scale)
    sae = trained(mode, sparsifier, decoder)
    folded = sae.folded()
    assert not folded.normaliser.mean.any() and bool((folded.normaliser.scale == 1).all())
    assert folded.archetypes is None and (sae.archetypes is not None) == (decoder == "archetypal")
    x = X.double()
    with torch.no_grad():
        codes = sae.encode(x)
        torch.testing.assert_close(folded.encode(x), codes, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(folded.decode(codes), sae.decode(codes), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(folded(x), sae(x), rtol=1e-6, atol=1e-7)
        assert 0 < float((codes != 0).double().mean()) < 1
        # what other libraries compute from the weights alone, where the encoder is all there is to a sparsifier
        if sparsifier.startswith("relu"):
            plain = ((x - folded.b_dec) @ folded.w_enc + folded.b_enc).relu() @ folded.w_dec + folded.b_dec
            torch.testing.assert_close(plain, sae(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_its_formula(mode):
    normaliser = Normaliser.fit(MOMENTS, mode)
    mean = {"none": 0.0}.get(mode, ROWS.mean(0))
    scale = {"none": 1.0, "scalar": np.sqrt(ROWS.var(0).mean()), "standardise": ROWS.std(0)}[mode]
    np.testing.assert_allclose(normaliser(X).numpy(), (ROWS - mean) / scale, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normaliser.inverse(normaliser(X)), X, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["scalar", "standardise"])
def test_the_mean_predictor_costs_one(mode):
    z = Normaliser.fit(MOMENTS, mode)(X)
    assert float(z.square().mean()) == pytest.approx(1, rel=1e-4)


def test_a_constant_dimension_stays_at_zero():
    rows = ROWS.copy()
    rows[:, 3] = 7
    z = Normaliser.fit(Moments.of(rows), "standardise")(torch.from_numpy(rows))
    assert torch.isfinite(z).all() and float(z[:, 3].abs().max()) < 1e-3


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="normalise=l2: choose none, scalar or standardise"):
        Normaliser.fit(MOMENTS, "l2")
