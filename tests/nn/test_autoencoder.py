"""The autoencoder against its formula, its folded form, and what is saved and loaded."""

import json

import numpy as np
import pytest
import torch

import saev
from saev.checkpoint import save_dictionary
from saev.nn import BatchTopK, Gated, JumpReLU, Normaliser, ReLU, SparseAutoencoder, TopK
from saev.nn.decoding import decode
from saev.nn.initialise import initialise
from saev.shards import Moments

ROWS = np.random.default_rng(0).normal(3, 2, size=(500, 12)) * np.linspace(0.1, 4, 12)
X = torch.from_numpy(ROWS).float()
MOMENTS = Moments.of(ROWS)
EVERY = [
    ReLU(1e-3),
    ReLU(1e-3, atom_norm=True),
    TopK(4),
    TopK(4, threshold=True),
    BatchTopK(4),
    JumpReLU(),
    Gated(1e-3),
]
NAMES = ["relu", "relu-atom-norm", "topk", "topk-threshold", "batchtopk", "jumprelu", "gated"]


def make(sparsifier, mode="scalar", seed=0):
    sae = SparseAutoencoder(12, 48, sparsifier, Normaliser.fit(MOMENTS, mode))
    initialise(sae, sae.normaliser(X), "data", seed)
    with torch.no_grad():
        if sae.sparsifier.gate_bias is None:
            sae.b_enc.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        if sae.sparsifier.free_atoms:
            sae.w_dec.mul_(torch.rand(48, 1, generator=torch.Generator().manual_seed(3)) + 0.5)
        sae.b_dec.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return sae.train()


@pytest.mark.parametrize("mode", ["none", "scalar", "standardise"])
def test_forward_is_the_formula(mode):
    sae = make(ReLU(0.0), mode)
    p = {name: value.double().numpy() for name, value in sae.state_dict().items()}
    mean = {"none": 0.0}.get(mode, ROWS.mean(0))
    scale = {"none": 1.0, "scalar": np.sqrt(ROWS.var(0).mean()), "standardise": ROWS.std(0)}[mode]
    z = (ROWS - mean) / scale
    f = np.maximum((z - p["b_dec"]) @ p["w_enc"] + p["b_enc"], 0)
    x_hat = mean + scale * (f @ p["w_dec"] + p["b_dec"])
    np.testing.assert_allclose(sae.encode(X).detach().numpy(), f, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(sae(X).detach().numpy(), x_hat, rtol=1e-3, atol=1e-3)


def test_scalar_normalisation_makes_the_mean_predictor_cost_one():
    z = Normaliser.fit(MOMENTS, "scalar")(X)
    assert float(z.square().mean()) == pytest.approx(1, rel=1e-5)
    assert float(z.square().sum(1).mean()) == pytest.approx(12, rel=1e-5)


@pytest.mark.parametrize("mode", ["none", "scalar", "standardise"])
@pytest.mark.parametrize("sparsifier", EVERY, ids=NAMES)
def test_folded_is_unfolded(sparsifier, mode):
    sae = make(sparsifier, mode)
    sae.training_codes(sae.normaliser(X))  # a threshold for BatchTopK
    for theta in (buffer for name, buffer in sae.sparsifier.named_buffers() if name == "theta"):
        theta.mul_(0.99)  # it equals a value of this very batch, which rounding must not decide about
    folded = sae.folded()
    assert not folded.normaliser.mean.any() and bool((folded.normaliser.scale == 1).all())
    torch.testing.assert_close(folded.encode(X), sae.encode(X), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(folded(X), sae(X), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sparsifier", EVERY, ids=NAMES)
def test_saved_and_loaded_takes_raw_activations(sparsifier, tmp_path):
    sae = make(sparsifier)
    sae.training_codes(sae.normaliser(X))
    save_dictionary(sae, tmp_path / "d", hyperparameters={"lr": 1e-3}, metrics={"nmse": 0.5})
    loaded = saev.load(tmp_path / "d")
    assert isinstance(loaded, saev.Dictionary) and not loaded.training and not loaded.w_enc.requires_grad
    exact = {"rtol": 1e-5, "atol": 1e-5} if sae.sparsifier.free_atoms else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(loaded.encode(X), sae.eval().encode(X), **exact)
    torch.testing.assert_close(loaded.decode(loaded.encode(X)), sae(X), **exact)
    torch.testing.assert_close(loaded.w_dec, sae.atoms, **exact)
    config = saev.read_config(tmp_path / "d")
    assert config["metrics"] == {"nmse": 0.5} and config["hyperparameters"] == {"lr": 1e-3}
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["config.json", "dictionary.safetensors"]


def test_what_is_no_dictionary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a saved dictionary"):
        saev.load(tmp_path)
    save_dictionary(make(TopK(4)), tmp_path / "saes" / "k=4")
    with pytest.raises(ValueError, match=r"under saes/: \['k=4'\]"):
        saev.load(tmp_path)
    path = tmp_path / "saes" / "k=4" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 9}))
    with pytest.raises(ValueError, match="schema 9"):
        saev.load(path.parent)


DAMAGES = {
    "config.json": {
        "cannot be read": lambda data: data[:60],
        "does not describe a dictionary of saev": lambda data: b"[]",
        "is damaged": lambda data: data.replace(b'"topk"', b'"top"'),
    },
    "dictionary.safetensors": {"is damaged": lambda data: data[:200]},
}


@pytest.mark.parametrize(("name", "said"), [(name, said) for name, of in DAMAGES.items() for said in of])
def test_a_damaged_dictionary_is_named(name, said, tmp_path):
    file = save_dictionary(make(TopK(4)), tmp_path / "d") / name
    file.write_bytes(DAMAGES[name][said](file.read_bytes()))
    with pytest.raises(ValueError, match=f"{tmp_path / 'd'}.* {said}"):
        saev.load(tmp_path / "d")


def test_another_width_is_refused():
    with pytest.raises(ValueError, match="d_model=7, this dictionary was trained on d_model=12"):
        make(TopK(4)).encode(torch.zeros(2, 7))


def test_more_active_latents_than_there_are():
    with pytest.raises(ValueError, match="k=49 is more than d_sae=48"):
        SparseAutoencoder(12, 48, TopK(49))


def test_unknown_modes_are_named():
    with pytest.raises(ValueError, match="normalise=l2: choose none, scalar or standardise"):
        Normaliser.fit(MOMENTS, "l2")


@pytest.mark.parametrize("method", ["random", "data"])
@pytest.mark.parametrize("sparsifier", EVERY, ids=NAMES)
def test_initial_encoder_is_the_best_multiple_of_the_decoder(sparsifier, method):
    sae = SparseAutoencoder(12, 48, sparsifier)
    z = Normaliser.fit(MOMENTS)(X)
    initialise(sae, z, method, seed=3)
    torch.testing.assert_close(sae.w_dec.norm(dim=1), torch.ones(48))
    scale = sae.w_enc.norm(dim=0)
    torch.testing.assert_close(scale, scale[:1].expand(48))

    def error(factor):
        with torch.no_grad():
            y = decode(sae.training_codes(z).f, sae.w_dec) * factor  # codes are homogeneous in w_enc
            return float((z - y - sae.b_dec).square().mean())

    if isinstance(sparsifier, BatchTopK):
        assert sae.sparsifier.theta == 0
    if isinstance(sparsifier, JumpReLU | Gated):
        return  # codes are homogeneous in w_enc and the thresholds together
    assert error(1.0) < min(error(0.9), error(1.1), 1.0)


def test_initialisation_depends_on_its_seed_alone():
    torch.manual_seed(1)
    one = make(TopK(4), seed=5)
    torch.manual_seed(2)
    torch.testing.assert_close(make(TopK(4), seed=5).w_dec, one.w_dec, rtol=0, atol=0)
    assert not torch.equal(make(TopK(4), seed=6).w_dec, one.w_dec)


def test_the_encoder_is_known_as_w_enc_in_files():
    """However it lies in memory: [d_model, d_sae], and so in what is said of a wrong one."""
    sae = make(ReLU(0.0), "none")
    state = sae.state_dict()
    assert "encoder" not in state and torch.equal(state["w_enc"], sae.w_enc)
    twin = SparseAutoencoder(sae.d_model, sae.n_latents, ReLU(0.0))
    twin.load_state_dict(state)
    assert torch.equal(twin.encoder, sae.encoder) and twin.encoder.is_contiguous()
    without = {name: value for name, value in state.items() if name != "w_enc"}
    assert twin.load_state_dict(without, strict=False).missing_keys == ["w_enc"]
    with pytest.raises(RuntimeError, match=r"w_enc has shape \[3, 2\]"):
        twin.load_state_dict(state | {"w_enc": torch.zeros(3, 2)})
