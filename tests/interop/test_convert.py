"""saev convert on the command line: what it makes, what it prints, and that nothing is left where it refuses."""

import json
import re

import numpy as np
import pytest
import torch
from interop import files
from recordings import record

import saev
from saev.checkpoint import save_dictionary
from saev.nn import BatchTopK, Normaliser, SparseAutoencoder
from saev.nn.initialise import initialise

RELU = {
    "schema": 2,
    "cfg": {"d_model": 6, "d_sae": 20, "activation": {"cls": "Relu", "params": {}}},
    "commit": "c",
    "lib": "0",
}
ONE = {"schema": 1, "cls": "Relu", "cfg": {"d_model": 6, "d_sae": 20}, "commit": "c", "lib": "0"}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return record(tmp_path_factory.mktemp("convert") / "six", d_model=6, layers=(1,))


@pytest.fixture
def lens(tmp_path):
    return files.saelens(tmp_path / "lens", files.affine(norms=(0.5, 2)), architecture="standard")


def test_a_converted_dictionary_loads_and_says_where_it_comes_from(cli, lens, recording, tmp_path):
    out = tmp_path / "saes" / "theirs"
    shown = cli("convert", str(lens), str(out), "--check", str(recording), "--layer", "1", "--n-tokens", "200")
    assert shown.code == 0, shown.text
    for text in (
        "SAELens standard, 20 latents of 6",
        "random inputs",
        "six, layer 1, patch",
        "NMSE of the original",
        "unit norm",
    ):
        assert text in shown.out
    assert "--check RECORDING" not in shown.out
    loaded, config = saev.load(out), saev.read_config(out)
    w, x = files.affine(norms=(0.5, 2)), files.inputs()
    f = np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    files.close(loaded.encode(torch.from_numpy(x)), f * np.linalg.norm(w["W_dec"], axis=1))
    source = config["provenance"]["source"]
    assert source["library"] == "SAELens" and source["config"]["d_in"] == 6
    assert [len(hash) for hash in source["files"].values()] == [64, 64]
    random, recorded = config["provenance"]["proofs"]
    assert recorded["tokens"] == 200 and recorded["different"] == 0 and random["active"] > 1000
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "dictionary.safetensors"]
    assert [path.name for path in out.parent.iterdir()] == ["theirs"]


def test_a_converted_dictionary_can_be_evaluated(cli, lens, recording, tmp_path):
    converted = cli("convert", str(lens), str(tmp_path / "theirs"))
    assert converted.code == 0 and "not how good the dictionary is" in converted.out
    shown = cli("evaluate", str(tmp_path / "theirs"), f"dataset={recording}", "layer=1", "device=cpu")
    assert shown.code == 0, shown.text
    assert cli("doctor", str(tmp_path / "theirs")).out.count("20 latents of 6 dimensions") == 1


def test_activations_tell_which_encoder_a_file_of_schema_1_has(cli, recording, tmp_path):
    store = saev.ActivationStore(recording)
    x = np.concatenate([store.read(1, i, "patches") for i in range(20)])
    w = files.affine()
    w["b_dec"] = x.mean(0)
    w["W_enc"] = w["W_dec"].T.copy()
    path = files.saev_checkpoint(tmp_path / "sae.pt", ONE, w)
    assert "--centred-encoder yes" in cli("convert", str(path), str(tmp_path / "out")).err
    nmse = {}
    for said in ("yes", "no"):
        out = tmp_path / said
        shown = cli(
            "convert", str(path), str(out), "--centred-encoder", said, "--check", str(recording), "--layer", "1"
        )
        assert shown.code == 0, shown.text
        nmse[said] = saev.read_config(out)["provenance"]["proofs"][1]["nmse"][0]
    assert nmse["yes"] < nmse["no"]


def test_what_differs_on_activations_is_an_error_and_leaves_nothing(cli, recording, tmp_path):
    w = files.affine()
    w["b_enc"] -= 8  # fewer than k are positive on the recording, and saev's TopK then keeps negative values
    about = {**RELU, "schema": 5, "cfg": RELU["cfg"] | {"activation": {"cls": "TopK", "params": {"top_k": 6}}}}
    path = files.saev_checkpoint(tmp_path / "from" / "sae.pt", about, w)
    shown = cli("convert", str(path), str(tmp_path / "out"), "--check", str(recording), "--layer", "1")
    assert shown.code == 1 and "keeps k latents though fewer are positive" in shown.err and "Traceback" not in shown.err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name not in ("outputs",)) == ["from"]


def test_ours_to_saelens_and_back(cli, recording, tmp_path):
    store = saev.ActivationStore(recording)
    sae = SparseAutoencoder(6, 20, BatchTopK(3), Normaliser.fit(store.moments(1)))
    x = torch.from_numpy(np.concatenate([store.read(1, i) for i in range(10)]))
    initialise(sae, sae.normaliser(x), "data", 0)
    sae.training_codes(sae.normaliser(x))
    sae.sparsifier.theta.mul_(0.99)
    provenance = {"dataset": "six", "vit": {"name": "tiny"}, "layer": 1}
    save_dictionary(sae, tmp_path / "ours", provenance=provenance)
    there = cli("convert", str(tmp_path / "ours"), str(tmp_path / "lens"), "--check", str(recording), "--layer", "1")
    assert there.code == 0 and "six, layer 1" in there.out, there.text
    config = json.loads((tmp_path / "lens" / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu" and config["metadata"]["hook_name"] == "blocks.1.resid_post"
    assert cli("convert", str(tmp_path / "lens"), str(tmp_path / "back")).code == 0
    back = saev.load(tmp_path / "back")
    torch.testing.assert_close(back.decode(back.encode(x)), sae.eval()(x), rtol=1e-3, atol=1e-3)


def test_shards_become_a_recording(cli, tmp_path):
    (tmp_path / "shards").mkdir()
    acts = np.random.default_rng(0).normal(size=(4, 1, 4, 6)).astype("<f4")
    acts.tofile(tmp_path / "shards" / "acts000000.bin")
    metadata = {
        "vit_family": "clip", "vit_ckpt": "b", "layers": [3], "n_patches_per_img": 4, "cls_token": False, "d_vit": 6,
        "n_imgs": 4, "max_patches_per_shard": 16, "data": "Folder()",
    }  # fmt: skip
    (tmp_path / "shards" / "metadata.json").write_text(json.dumps(metadata))
    shown = cli("convert", str(tmp_path / "shards"), str(tmp_path / "out"), "--grid", "2x2")
    assert shown.code == 0 and "4 images, 16 tokens of 6 float32 in layers 3; read back as they were" in shown.out
    assert np.array_equal(saev.ActivationStore(tmp_path / "out").read(3, 2), acts[2, 0])
    again = cli("convert", str(tmp_path / "shards"), str(tmp_path / "out2"), "--grid", "four")
    assert again.code == 1 and "--grid four: write rows x columns" in again.err


WRONG = {
    "an output that is there": (["{lens}", "{lens}"], "never overwritten"),
    "an output below a file": (["{lens}", "{lens}/cfg.json/out"], "cfg.json/out cannot be made .Not a directory."),
    "a path that is not there": (["nowhere", "out"], "nowhere does not exist"),
    "an option of shards": (["{lens}", "out", "--dtype", "float16"], "--dtype: .*holds a dictionary"),
    "a layer of nothing": (["{lens}", "out", "--layer", "3"], "--layer: the option belongs to --check"),
    "activations of no layer": (["{lens}", "out", "--check", "{recording}"], "give the layer"),
    "activations of another layer": (["{lens}", "out", "--check", "{recording}", "--layer", "5"], "layer=5 is not in"),
    "activations of another width": (["{lens}", "out", "--check", "{tiny}", "--layer", "1"], "has d_model=16, the dictionary has 6"),
    "tokens that were not recorded": (
        ["{lens}", "out", "--check", "{recording}", "--layer", "1", "--n-tokens", "0"], "n_tokens=0: must be at least 1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_named_and_nothing_is_written(case, cli, lens, recording, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG[case]
    shown = cli("convert", *(text.format(lens=lens, recording=recording, tiny=tiny) for text in arguments))
    assert shown.code == 1 and "Traceback" not in shown.err
    assert re.search(message, shown.err), shown.err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.part").exists()
