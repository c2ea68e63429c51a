"""sae.pt of every generation gives the codes and reconstructions of saev's own formula, written here in NumPy."""

import json

import numpy as np
import pytest
import torch
from interop import files

from saev.interop import saev_checkpoint
from saev.interop.foreign import Options
from saev.interop.proof import compare, random_inputs

X = files.inputs()
RELU = {"cls": "Relu", "params": {}}
OLD = {
    "d_vit": 6,
    "exp_factor": 4,
    "seed": 0,
    "n_reinit_samples": 8,
    "remove_parallel_grads": True,
    "normalize_w_dec": True,
}
NEW = {"d_model": 6, "d_sae": 20, "reinit_blend": 0.8, "reinit_enc_dec_tranpose": True, "remove_parallel_grads": True}


@pytest.fixture
def weights():
    return files.affine()


def header(schema, activation, **cfg):
    return {
        "schema": schema,
        "cfg": {**(NEW if schema > 2 else OLD), **cfg, "activation": activation},
        "commit": "c",
        "lib": "0",
    }


def read(path, **options):
    return saev_checkpoint.read(path, Options(**options))


def pre_activations(w, x, centred):
    return (x.astype(float) - centred * w["b_dec"]) @ w["W_enc"].astype(float) + w["b_enc"]


def decoded(w, f):
    return f @ w["W_dec"].astype(float) + w["b_dec"]


def same(foreign, codes, x_hat, x=X):
    """Our autoencoder and the reader's equations both give these codes and this reconstruction."""
    sae, x = foreign.sae, torch.from_numpy(x)
    files.close(sae.encode(x), codes * foreign.code_scale.numpy())
    files.close(sae(x), x_hat)
    theirs = foreign.evaluate(x)
    np.testing.assert_allclose(theirs[0], codes, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(theirs[1], x_hat, rtol=1e-9, atol=1e-9)
    compare(foreign.evaluate, foreign.code_scale, sae, random_inputs(sae), "random inputs").require("it")


WIDE = {  # what has d_vit * exp_factor latents: 24
    "no schema": ({"sparsity_coeff": 4e-4, "ghost_grads": False, **OLD}, {}, True),
    "schema 1, the class is the activation": ({"schema": 1, "cls": "Relu", "cfg": OLD, "commit": "c", "lib": "0"}, {"centred": True}, True),
    "schema 1 after the change": ({"schema": 1, "cls": "Relu", "cfg": OLD, "commit": "c", "lib": "0"}, {"centred": False}, False),
    "schema 1 with a nested activation": (
        {"schema": 1, "cls": "SparseAutoencoderConfig", "cfg": {**OLD, "activation": RELU}, "commit": "c", "lib": "0"},
        {"centred": True}, True,
    ),
    "schema 2": (header(2, RELU), {}, False),
}  # fmt: skip


@pytest.mark.parametrize("generation", WIDE)
def test_relu_of_the_generations_with_an_expansion_factor(generation, tmp_path, monkeypatch):
    about, options, centred = WIDE[generation]
    monkeypatch.setattr(files, "D_SAE", 24)
    w = files.affine()
    foreign = read(files.saev_checkpoint(tmp_path / "sae.pt", about, w), **options)
    f = np.maximum(pre_activations(w, X, centred), 0)
    same(foreign, f, decoded(w, f))
    assert foreign.config == about and foreign.library == "saev" and len(foreign.files["sae.pt"]) == 64


@pytest.mark.parametrize("schema", [3, 4, 5])
def test_relu_of_the_generations_with_d_sae(schema, weights, tmp_path):
    params = {"key": "relu", "sparsity": {"cls": "L1Sparsity", "params": {"coeff": 4e-4}}} if schema == 5 else {}
    foreign = read(
        files.saev_checkpoint(tmp_path / "sae.pt", header(schema, {"cls": "Relu", "params": params}), weights)
    )
    f = np.maximum(pre_activations(weights, X, False), 0)
    same(foreign, f, decoded(weights, f))


def test_topk_keeps_the_k_largest(weights, tmp_path):
    foreign = read(
        files.saev_checkpoint(tmp_path / "sae.pt", header(4, {"cls": "TopK", "params": {"top_k": 3}}), weights)
    )
    f = files.largest(pre_activations(weights, X, False), 3)
    assert (f >= 0).all() and foreign.sae.sparsifier.settings.k == 3
    same(foreign, f, decoded(weights, f))


def test_topk_that_keeps_negative_values_is_found_out(weights, tmp_path):
    weights["b_enc"] -= 4
    foreign = read(
        files.saev_checkpoint(tmp_path / "sae.pt", header(4, {"cls": "TopK", "params": {"top_k": 8}}), weights)
    )
    proof = compare(foreign.evaluate, foreign.code_scale, foreign.sae, [torch.from_numpy(X)], "these")
    assert not proof.holds and proof.negative > 0
    with pytest.raises(ValueError, match="keeps k latents though fewer are positive"):
        proof.require("it")


@pytest.mark.parametrize("threshold", [0.7, 0.0])
def test_batchtopk_fires_above_its_threshold(threshold, weights, tmp_path):
    state = {**weights, "activation.threshold": np.float32(threshold)}
    activation = {"cls": "BatchTopK", "params": {"top_k": 4, "momentum": 0.1, "aux": {}}}
    foreign = read(files.saev_checkpoint(tmp_path / "sae.pt", header(5, activation), state))
    h = pre_activations(weights, X, False)
    f = np.where(h > np.float32(threshold), h, 0)
    same(foreign, f, decoded(weights, f))
    assert foreign.sae.sparsifier.settings.k == 4 and float(foreign.sae.sparsifier.theta) == pytest.approx(threshold)


def test_batchtopk_of_schema_2_chose_per_token(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "D_SAE", 24)
    w = files.affine()
    about = header(2, {"cls": "BatchTopK", "params": {"top_k": 3}})
    f = files.largest(pre_activations(w, X, False), 3)
    same(read(files.saev_checkpoint(tmp_path / "sae.pt", about, w)), f, decoded(w, f))


@pytest.mark.parametrize("centred", [True, False])
def test_a_scaled_run_is_normalised_and_folds_as_it_should(centred, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "D_SAE", 24)
    w, mean, c = files.affine(), np.linspace(-2, 3, 6).astype(np.float32), 2.5
    about = WIDE["schema 1, the class is the activation"][0]
    path = files.saev_checkpoint(tmp_path / "sae.pt", about, w)
    (tmp_path / "config.json").write_text(json.dumps({"data": {"scale_mean": True, "scale_norm": True, "clamp": 1e5}}))
    torch.save(torch.from_numpy(mean), tmp_path / "mean.pt")
    foreign = read(path, centred=centred, mean=tmp_path / "mean.pt", scale=str(c))
    z = (X.astype(float) - mean) / c
    f = np.maximum(pre_activations(w, z, centred), 0)
    same(foreign, f, mean + c * decoded(w, f))
    folded = foreign.sae.folded()
    b_enc = (
        w["b_enc"] - centred * w["b_dec"] @ w["W_enc"] - (mean / c) @ w["W_enc"]
    )  # of an encoder that subtracts nothing
    np.testing.assert_allclose(folded.w_enc, w["W_enc"] / c, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(folded.b_enc - folded.b_dec @ folded.w_enc, b_enc, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(folded.w_dec, w["W_dec"] * c, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(folded.b_dec, c * w["b_dec"] + mean, rtol=1e-5, atol=1e-6)
    assert set(foreign.files) == {"sae.pt", "config.json"}


def test_atoms_that_were_not_normalised_get_unit_norm(tmp_path):
    w = files.affine(norms=(0.2, 3))
    foreign = read(files.saev_checkpoint(tmp_path / "sae.pt", header(5, RELU, normalize_w_dec=False), w))
    f = np.maximum(pre_activations(w, X, False), 0)
    same(foreign, f, decoded(w, f))
    np.testing.assert_allclose(foreign.sae.atoms.norm(dim=1), 1, rtol=1e-5)
    np.testing.assert_allclose(foreign.code_scale, np.linalg.norm(w["W_dec"], axis=1), rtol=1e-5)


def test_topk_with_atoms_of_different_norms_keeps_them(tmp_path):
    w = files.affine(norms=(0.2, 3))
    foreign = read(files.saev_checkpoint(tmp_path / "sae.pt", header(5, {"cls": "TopK", "params": {"top_k": 3}}), w))
    f = files.largest(pre_activations(w, X, False), 3)
    same(foreign, f, decoded(w, f))
    assert bool((foreign.code_scale == 1).all()) and any("keep their norms" in note for note in foreign.notes)


SCHEMA_1 = {"schema": 1, "cls": "Relu", "cfg": {"d_vit": 6}, "commit": "c", "lib": "0"}
WRONG = {
    "schema 1 says nothing": (SCHEMA_1, {}, "--centred-encoder"),
    "another schema": ({"schema": 6, "cfg": NEW}, {}, "schema 6, known are none and 1 to 5"),
    "an unknown activation": (header(4, {"cls": "AbsBatchTopK", "params": {"top_k": 2}}), {}, "activation AbsBatchTopK cannot"),
    "a choice over the batch": (header(4, {"cls": "BatchTopK", "params": {"top_k": 2}}), {}, "chooses over the whole batch"),
    "an unknown key": (header(5, RELU, squared=True), {}, "squared.*--ignore-unknown"),
    "an unknown parameter": (header(5, {"cls": "Relu", "params": {"leak": 0.1}}), {}, "leak"),
    "another width": (header(5, RELU, d_model=7), {}, r"W_enc has shape \(6, 20\)"),
    "an option against the file": (header(5, RELU), {"centred": True}, "does not subtract"),
    "k of nothing": (header(5, {"cls": "TopK", "params": {"top_k": 0}}), {}, "top_k=0"),
    "a scale of nothing": (header(5, RELU), {"scale": "0"}, "--scale 0: must be above 0"),
    "a scale that is no number": (header(5, RELU), {"scale": "much"}, "much is neither a number nor a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_converted_is_refused_by_name(case, weights, tmp_path):
    about, options, message = WRONG[case]
    path = files.saev_checkpoint(tmp_path / "sae.pt", about, weights)
    with pytest.raises(ValueError, match=message):
        read(path, **options)


def test_unknown_keys_can_be_ignored_and_are_listed(weights, tmp_path):
    path = files.saev_checkpoint(tmp_path / "sae.pt", header(5, RELU, squared=True), weights)
    assert any("squared" in note for note in read(path, ignore_unknown=True).notes)


def test_a_scaled_run_without_its_numbers_is_refused(weights, tmp_path):
    path = files.saev_checkpoint(tmp_path / "sae.pt", header(5, RELU), weights)
    (tmp_path / "config.json").write_text(json.dumps({"data": {"scale_mean": True, "scale_norm": False}}))
    with pytest.raises(ValueError, match=r"scale_mean=True.*--mean"):
        read(path)
    np.save(tmp_path / "mean.npy", np.zeros(7))
    with pytest.raises(ValueError, match="must be 6 finite numbers"):
        read(path, mean=tmp_path / "mean.npy")


def test_a_pickle_is_never_loaded(tmp_path):
    path = tmp_path / "sae.pt"
    with open(path, "wb") as file:
        file.write(json.dumps(header(5, RELU)).encode() + b"\n")
        torch.save({"W_enc": pytest.raises}, file)
    with pytest.raises(ValueError, match="without running code"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no header", b'{"schema": 5}\n', b"[1, 2]\nx"])
def test_a_file_without_a_header_is_refused(content, tmp_path):
    (tmp_path / "sae.pt").write_bytes(content)
    with pytest.raises(ValueError, match="does not begin with a line of JSON"):
        read(tmp_path / "sae.pt")


@pytest.mark.parametrize("change", ["missing", "unknown", "nan"])
def test_other_tensors_are_named(change, weights, tmp_path):
    if change == "missing":
        del weights["b_enc"]
    if change == "unknown":
        weights["gate"] = np.zeros(20, np.float32)
    if change == "nan":
        weights["b_enc"][3] = np.nan
    path = files.saev_checkpoint(tmp_path / "sae.pt", header(5, RELU), weights)
    with pytest.raises(
        ValueError, match={"missing": "b_enc", "unknown": "not known.*gate", "nan": "b_enc has NaN"}[change]
    ):
        read(path)
