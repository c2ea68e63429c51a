"""Every class of dictionary_learning gives the codes and reconstructions of its own formula, written here in NumPy."""

import json

import numpy as np
import pytest
import torch
from interop import files

from saev.interop import dictionary_learning
from saev.interop.foreign import Options
from saev.interop.proof import compare, random_inputs

X = files.inputs()


def read(folder):
    return dictionary_learning.read(folder / "ae.pt", Options())


def same(foreign, w, codes):
    sae, x = foreign.sae, torch.from_numpy(X)
    x_hat = codes @ w["W_dec"].astype(float) + w["b_dec"]
    files.close(sae.encode(x), codes * foreign.code_scale.numpy())
    files.close(sae(x), x_hat)
    theirs = foreign.evaluate(x)
    np.testing.assert_allclose(theirs[0], codes, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(theirs[1], x_hat, rtol=1e-9, atol=1e-9)
    compare(foreign.evaluate, foreign.code_scale, sae, random_inputs(sae), "random inputs").require("it")


def hidden(w, centred=True):
    return (X.astype(float) - centred * w["b_dec"]) @ w["W_enc"].astype(float) + w["b_enc"]


@pytest.mark.parametrize("norms", [None, (0.05, 0.4)])
def test_the_relu_autoencoders(norms, tmp_path):
    w = files.affine(norms=norms)
    foreign = read(files.dictionary_learning(tmp_path / "a", "AutoEncoder", files.linear(w, "bias")))
    same(foreign, w, np.maximum(hidden(w), 0))
    foreign = read(files.dictionary_learning(tmp_path / "b", "AutoEncoderNew", files.linear(w, "decoder.bias")))
    same(foreign, w, np.maximum(hidden(w, centred=False), 0))


@pytest.mark.parametrize("buffers", [True, False])
def test_topk_with_and_without_the_buffers_of_later_versions(buffers, tmp_path):
    w = files.affine()
    own = {"k": torch.tensor(3, dtype=torch.int), "threshold": torch.tensor(0.8)} if buffers else {}
    folder = files.dictionary_learning(tmp_path / "a", "AutoEncoderTopK", {**files.linear(w, "b_dec"), **own}, k=3)
    foreign = read(folder)
    same(foreign, w, np.maximum(files.largest(hidden(w), 3), 0))
    assert any("threshold=0.8 is left out" in note for note in foreign.notes) == buffers


@pytest.mark.parametrize("threshold", [0.5, -1.0])
def test_batchtopk_fires_above_its_threshold(threshold, tmp_path):
    w = files.affine()
    own = {"k": torch.tensor(4, dtype=torch.int), "threshold": torch.tensor(threshold)}
    folder = files.dictionary_learning(tmp_path / "a", "BatchTopKSAE", {**files.linear(w, "b_dec"), **own}, k=4)
    foreign, h = read(folder), hidden(w)
    same(foreign, w, np.where(h > max(threshold, 0), h, 0))
    assert foreign.sae.sparsifier.settings.k == 4


def test_matryoshka_batchtopk(tmp_path):
    w = files.affine()
    own = {"k": torch.tensor(4), "threshold": torch.tensor(0.5), "group_sizes": torch.tensor([4, 16])}
    folder = files.dictionary_learning(tmp_path / "a", "MatryoshkaBatchTopKSAE", {**w, **own}, k=4, group_sizes=[4, 16])
    foreign, h = read(folder), hidden(w)
    same(foreign, w, np.where(h > 0.5, h, 0))
    assert any("[4, 16]" in note for note in foreign.notes)


@pytest.mark.parametrize("norms", [None, (0.3, 2.0)])
def test_jumprelu_does_not_centre_its_encoder(norms, tmp_path):
    w = files.affine(norms=norms)
    threshold = np.linspace(-0.1, 1, 20).astype(np.float32)
    foreign = read(files.dictionary_learning(tmp_path / "a", "JumpReluAutoEncoder", {**w, "threshold": threshold}))
    h = hidden(w, centred=False)
    same(foreign, w, np.maximum(h * (h > threshold), 0))


@pytest.mark.parametrize("norms", [None, (0.3, 2.0)])
def test_gated(norms, tmp_path):
    w = files.affine(norms=norms)
    rng = np.random.default_rng(1)
    r, gate, mag = (rng.normal(0, 0.4, 20).astype(np.float32) for _ in range(3))
    state = files.linear(w, "decoder_bias") | {"r_mag": r, "gate_bias": gate, "mag_bias": mag}
    del state["encoder.bias"]
    foreign = read(files.dictionary_learning(tmp_path / "a", "GatedAutoEncoder", state))
    h = hidden(w) - w["b_enc"]
    same(foreign, w, (h + gate > 0) * np.maximum(np.exp(r.astype(float)) * h + mag, 0))


def test_the_configuration_may_lie_one_folder_up(tmp_path):
    folder = files.dictionary_learning(tmp_path / "run", "AutoEncoder", files.linear(files.affine(), "bias"))
    (folder / "standard").mkdir()
    (folder / "ae.pt").rename(folder / "standard" / "ae_final.pt")
    foreign = dictionary_learning.read(folder / "standard" / "ae_final.pt", Options())
    assert foreign.architecture == "AutoEncoder" and foreign.config["buffer"] == {"ctx_len": 128}
    assert set(foreign.files) == {"ae_final.pt", "config.json"}


WRONG = {
    "another class": (("CrossCoder", {}, {}), "dict_class=CrossCoder cannot be converted: AutoEncoder,"),
    "another k": (("AutoEncoderTopK", {"k": torch.tensor(3)}, {"k": 5}), "k=5, the weights have k=3"),
    "no k": (("AutoEncoderTopK", {}, {}), "k=None is not a positive integer"),
    "another size": (("AutoEncoderTopK", {}, {"k": 3, "dict_size": 40}), "has shape"),
    "tensors of another": (("AutoEncoder", {}, {}), r"missing: \['bias'\], not known: \['b_dec'\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_converted_is_refused_by_name(case, tmp_path):
    (name, own, trainer), message = WRONG[case]
    state = {**files.linear(files.affine(), "b_dec"), **own}
    with pytest.raises(ValueError, match=message):
        read(files.dictionary_learning(tmp_path / "a", name, state, **trainer))


def test_a_missing_or_foreign_configuration_is_named(tmp_path):
    folder = files.dictionary_learning(tmp_path / "a", "AutoEncoder", files.linear(files.affine(), "bias"))
    (folder / "config.json").write_text(json.dumps({"lr": 1}))
    with pytest.raises(ValueError, match=r"no trainer\.dict_class"):
        read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json beside it"):
        read(folder)
