"""SAELens' files of every architecture give the codes and reconstructions of its own formula, written here in NumPy."""

import json

import numpy as np
import pytest
import torch
from interop import files

from saev.interop import saelens
from saev.interop.foreign import Options
from saev.interop.proof import compare, random_inputs

X = files.inputs()
NORMS = [None, (0.3, 2.0)]


def read(folder, **options):
    return saelens.read(folder, Options(**options))


def hidden(w, x, centred=True):
    return (x.astype(float) - centred * w["b_dec"]) @ w["W_enc"].astype(float) + w.get("b_enc", 0)


def same(foreign, codes, x_hat):
    sae, x = foreign.sae, torch.from_numpy(X)
    files.close(sae.encode(x), codes * foreign.code_scale.numpy())
    files.close(sae(x), x_hat)
    theirs = foreign.evaluate(x)
    np.testing.assert_allclose(theirs[0], codes, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(theirs[1], x_hat, rtol=1e-6, atol=1e-6)
    compare(foreign.evaluate, foreign.code_scale, sae, random_inputs(sae), "random inputs").require("it")


def decoded(w, f):
    return f @ w["W_dec"].astype(float) + w["b_dec"]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("norms", NORMS)
def test_standard(norms, centred, tmp_path):
    w = files.affine(norms=norms)
    foreign = read(files.saelens(tmp_path / "sae", w, architecture="standard", apply_b_dec_to_input=centred))
    f = np.maximum(hidden(w, X, centred), 0)
    same(foreign, f, decoded(w, f))
    np.testing.assert_allclose(foreign.sae.atoms.norm(dim=1), 1, rtol=1e-5)


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("norms", NORMS)
def test_topk_with_and_without_rescaling_by_the_decoders_norms(norms, rescaled, tmp_path):
    w = files.affine(norms=norms)
    folder = files.saelens(tmp_path / "sae", w, architecture="topk", k=3, rescale_acts_by_decoder_norm=rescaled)
    n = np.linalg.norm(w["W_dec"].astype(float), axis=1) if rescaled else 1
    f = np.maximum(files.largest(hidden(w, X) * n, 3), 0)
    foreign = read(folder)
    same(foreign, f, decoded(w, f / n))
    if rescaled:
        np.testing.assert_allclose(foreign.sae.atoms.norm(dim=1), 1, rtol=1e-5)


def test_topk_whose_atoms_have_one_norm_gets_unit_norm(tmp_path):
    w = files.affine(norms=(1.7, 1.7))
    foreign = read(files.saelens(tmp_path / "sae", w, architecture="topk", k=3))
    f = np.maximum(files.largest(hidden(w, X), 3), 0)
    same(foreign, f, decoded(w, f))
    np.testing.assert_allclose(foreign.code_scale, 1.7, rtol=1e-5)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("norms", NORMS)
def test_jumprelu_with_a_threshold_per_latent(norms, log, tmp_path):
    w = files.affine(norms=norms)
    threshold = np.linspace(0.1 if log else -0.2, 1, 20).astype(np.float32)  # below 0 it counts as 0
    own = {"log_threshold": np.log(threshold)} if log else {"threshold": threshold}
    foreign = read(files.saelens(tmp_path / "sae", {**w, **own}, architecture="jumprelu", apply_b_dec_to_input=False))
    h = hidden(w, X, False)
    f = np.where(h > np.maximum(threshold, 0), np.maximum(h, 0), 0)
    same(foreign, f, decoded(w, f))


@pytest.mark.parametrize(("k", "kind"), [(4.0, "BatchTopK"), (4.5, "JumpReLU"), (None, "JumpReLU")])
def test_what_was_trained_as_batchtopk_is_told_by_its_metadata(k, kind, tmp_path):
    w = files.affine() | {"threshold": np.full(20, 0.4, np.float32)}
    metadata = {
        "sae_lens_version": "6.44.0",
        "training_architecture": "batchtopk",
        "training_architecture_details": {"k": k},
    }
    foreign = read(files.saelens(tmp_path / "sae", w, architecture="jumprelu", metadata=metadata))
    h = hidden(w, X)
    f = np.where(h > np.float32(0.4), h, 0)
    same(foreign, f, decoded(w, f))
    assert type(foreign.sae.sparsifier.settings).__name__ == kind


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("norms", NORMS)
def test_gated(norms, centred, tmp_path):
    w = files.affine(norms=norms)
    del w["b_enc"]
    rng = np.random.default_rng(1)
    own = {name: rng.normal(0, 0.4, 20).astype(np.float32) for name in ("b_gate", "r_mag", "b_mag")}
    folder = files.saelens(tmp_path / "sae", {**w, **own}, architecture="gated", apply_b_dec_to_input=centred)
    h = hidden(w, X, centred)
    f = np.where(h + own["b_gate"] > 0, np.maximum(np.exp(own["r_mag"].astype(float)) * h + own["b_mag"], 0), 0)
    foreign = read(folder)
    same(foreign, f, decoded(w, f))
    assert not foreign.sae.b_enc.any()


@pytest.mark.parametrize(("k", "kind"), [(4, "BatchTopK"), (4.5, "JumpReLU")])
@pytest.mark.parametrize("rescaled", [True, False])
def test_a_training_checkpoint_of_batchtopk_fires_above_its_threshold(rescaled, k, kind, tmp_path):
    w = files.affine(norms=(0.3, 2))
    folder = files.saelens(
        tmp_path / "sae", {**w, "topk_threshold": np.array(0.6)}, architecture="matryoshka_batchtopk", k=k,
        rescale_acts_by_decoder_norm=rescaled, matryoshka_widths=[4, 20], topk_threshold_lr=0.01,
    )  # fmt: skip
    n = np.linalg.norm(w["W_dec"].astype(float), axis=1) if rescaled else 1
    h = hidden(w, X) * n
    f = np.where(h > 0.6, h, 0)
    foreign = read(folder)
    same(foreign, f, decoded(w, f / n))
    # a threshold on h, where atoms have norms of their own, is another one for each unit atom
    assert type(foreign.sae.sparsifier.settings).__name__ == (kind if rescaled else "JumpReLU")


def test_a_file_of_version_3_is_read_by_its_own_names(tmp_path):
    w = files.affine()
    config = {
        "architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "hook_point": "blocks.8.hook",
        "hook_point_layer": 8, "hook_point_head_index": None, "normalize_activations": False, "metadata": {},
        "finetuning_scaling_factor": True, "dataset_trust_remote_code": True, "l1_coefficient": 1e-3,
    }  # fmt: skip
    factor = np.linspace(0.5, 2, 20).astype(np.float32)
    folder = files.saelens(tmp_path / "sae", {**w, "scaling_factor": factor}, **config)
    f = np.maximum(files.largest(hidden(w, X), 3), 0)
    foreign = read(folder)
    same(foreign, f, decoded(w, f * factor))
    assert foreign.architecture == "topk"
    (folder / "cfg.json").write_text(
        json.dumps(json.loads((folder / "cfg.json").read_text()) | {"finetuning_scaling_factor": False})
    )
    with pytest.raises(ValueError, match="finetuning_scaling_factor=false"):
        read(folder)


def test_a_scale_of_all_activations_is_applied_inside(tmp_path):
    w = files.affine()
    folder = files.saelens(
        tmp_path / "sae", w, architecture="standard", normalize_activations="expected_average_only_in"
    )
    f = np.maximum(hidden(w, X.astype(float) * 0.25), 0)
    foreign = read(folder, scale="0.25")
    same(foreign, f, decoded(w, f) / 0.25)
    assert float(foreign.sae.normaliser.scale) == 4
    with pytest.raises(ValueError, match=r"expected_average_only_in.*give --scale"):
        read(folder)


def test_the_file_and_its_neighbours_are_kept_in_mind(tmp_path):
    folder = files.saelens(tmp_path / "sae", files.affine(), architecture="standard")
    (folder / "sparsity.safetensors").write_bytes(b"x")
    foreign = read(folder)
    assert set(foreign.files) == {"cfg.json", "sae_weights.safetensors"}
    assert any("sparsity.safetensors" in note for note in foreign.notes)
    kept = foreign.provenance()
    assert kept["config"]["metadata"] == {"sae_lens_version": "6.44.0"} and kept["library"] == "SAELens"


WRONG = {
    "an unknown architecture": ({"architecture": "temporal"}, "architecture=temporal cannot be converted"),
    "an unknown key": ({"architecture": "standard", "normalize_decoder": True}, "normalize_decoder.*--ignore-unknown"),
    "a norm per token": ({"architecture": "standard", "normalize_activations": "layer_norm"}, "divides each token"),
    "another activation": ({"architecture": "standard", "activation_fn": "tanh-relu"}, "activation_fn=tanh-relu"),
    "another post-activation": (
        {"architecture": "topk", "k": 3, "activation_fn": "topk", "activation_fn_kwargs": {"k": 3, "postact_fn": "id"}},
        "postact_fn",
    ),
    "no k": ({"architecture": "topk"}, "k=None is not a positive integer"),
    "a reshape": ({"architecture": "standard", "reshape_activations": "hook_q"}, "reshape_activations=hook_q"),
    "tensors of another": ({"architecture": "jumprelu"}, r"missing: \['threshold'\]"),
    "another size": ({"architecture": "standard", "d_sae": 30}, r"W_dec has shape|b_enc has shape|W_enc has shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_converted_is_refused_by_name(case, tmp_path):
    config, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        read(files.saelens(tmp_path / "sae", files.affine(), **config))


def test_a_damaged_file_and_a_needless_scale_are_refused(tmp_path):
    folder = files.saelens(tmp_path / "sae", files.affine(), architecture="standard")
    with pytest.raises(ValueError, match=r"--scale 2.*leave the option out"):
        read(folder, scale="2")
    (folder / "sae_weights.safetensors").write_bytes((folder / "sae_weights.safetensors").read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        read(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read(folder)
