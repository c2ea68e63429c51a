"""Ours written for SAELens: the files' own equations give our codes, and reading them gives our dictionary again."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from saev.interop import saelens, saelens_export
from saev.interop.foreign import Options
from saev.nn import BatchTopK, Gated, JumpReLU, Normaliser, ReLU, SparseAutoencoder, TopK
from saev.nn.initialise import initialise
from saev.shards import Moments

ROWS = np.random.default_rng(0).normal(3, 2, size=(400, 8)) * np.linspace(0.3, 2, 8)
X = torch.from_numpy(ROWS).float()
EVERY = {
    "standard": ReLU(1e-3),
    "standard, norms in the penalty": ReLU(1e-3, atom_norm=True),
    "topk": TopK(3),
    "jumprelu, from topk": TopK(3, threshold=True),
    "jumprelu, from batchtopk": BatchTopK(3),
    "jumprelu": JumpReLU(),
    "gated": Gated(1e-3),
}


@pytest.fixture(params=EVERY)
def trained(request):
    """(architecture in SAELens, one of ours with thresholds and biases that are not 0)."""
    mode = "standardise" if request.param == "gated" else "scalar"
    sae = SparseAutoencoder(8, 24, EVERY[request.param], Normaliser.fit(Moments.of(ROWS), mode))
    initialise(sae, sae.normaliser(X), "data", 0)
    with torch.no_grad():
        sae.b_dec.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
        if sae.sparsifier.free_atoms:
            sae.w_dec.mul_(torch.linspace(0.5, 2, 24)[:, None])
    sae.training_codes(sae.normaliser(X))
    for name, theta in sae.sparsifier.named_buffers():
        if name == "theta":
            theta.mul_(0.99)  # it equals a value of this very batch, which rounding must not decide about
    return request.param.split(",")[0], sae.eval()


def test_the_files_equations_give_our_codes(trained, tmp_path):
    architecture, sae = trained
    saelens_export.write(sae, {}, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    w = {name: value.astype(float) for name, value in load_file(tmp_path / "out" / "sae_weights.safetensors").items()}
    assert config["architecture"] == architecture and (config["d_in"], config["d_sae"]) == (8, 24)
    h = (ROWS.astype(np.float32) - w["b_dec"]) @ w["W_enc"] + w.get("b_enc", 0)
    if architecture == "topk":
        f = np.maximum(np.where(h >= np.sort(h, axis=1)[:, -config["k"]][:, None], h, 0), 0)
    elif architecture == "gated":
        f = (h + w["b_gate"] > 0) * np.maximum(np.exp(w["r_mag"]) * h + w["b_mag"], 0)
    else:
        f = np.where(h > w.get("threshold", 0), np.maximum(h, 0), 0)
    np.testing.assert_allclose(sae.encode(X).detach(), f, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sae(X).detach(), f @ w["W_dec"] + w["b_dec"], rtol=1e-3, atol=1e-3)
    assert (f != 0).any()


def test_there_and_back_again(trained, tmp_path):
    _, sae = trained
    sparsifier = sae.sparsifier.settings.as_dict()
    saelens_export.write(sae, {"sparsifier": sparsifier}, tmp_path / "out")
    back = saelens.read(tmp_path / "out", Options())
    torch.testing.assert_close(back.sae(X), sae(X), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(back.sae.encode(X), sae.encode(X) * back.code_scale.float(), rtol=1e-3, atol=1e-3)
    if type(sae.sparsifier.settings) is BatchTopK:  # told by the metadata
        assert back.sae.sparsifier.settings == BatchTopK(3)
    if back.architecture != "topk":  # whose atoms keep the lengths that the normalisation gave them, where they differ
        torch.testing.assert_close(back.sae.atoms.norm(dim=1), torch.ones(24))


def test_what_it_was_trained_on_becomes_metadata(tmp_path):
    about = {
        "sparsifier": {"kind": "topk", "k": 2},
        "provenance": {"vit": {"name": "dinov3"}, "layer": 8, "hook": "mlp", "images": "birds", "commit": "abc"},
    }
    saelens_export.write(SparseAutoencoder(8, 24, TopK(2)), about, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert found["sae_lens_version"] == "6.0.0" and found["saev_lightning"] == about
    assert (found["model_name"], found["hook_name"], found["dataset_path"]) == ("dinov3", "blocks.8.mlp", "birds")


def test_what_has_no_counterpart_is_refused(tmp_path):
    class Centroids:
        d_model, n_latents, atoms = 8, 24, torch.zeros(24, 8)

        def encode(self, acts):
            return acts

        decode = encode

    with pytest.raises(ValueError, match="Centroids has no counterpart in SAELens"):
        saelens_export.write(Centroids(), {}, tmp_path / "out")
    sae = SparseAutoencoder(8, 24, JumpReLU())
    with torch.no_grad():
        sae.sparsifier.theta.fill_(-1)
    with pytest.raises(ValueError, match="below 0"):
        saelens_export.write(sae, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
