"""What lies at a path is found out by its files, and what is none of ours or theirs is refused with what is known."""

import numpy as np
import pytest
import torch
from interop import files

from saev.checkpoint import save_dictionary
from saev.interop import KNOWN, opening
from saev.interop.foreign import Options
from saev.nn import SparseAutoencoder, TopK

RELU = {"schema": 5, "cfg": {"d_model": 6, "d_sae": 20, "activation": {"cls": "Relu", "params": {}}}}


@pytest.fixture
def folders(tmp_path):
    """A folder or file of every kind -> (the kind, what its reader takes)."""
    w = files.affine()
    files.saev_checkpoint(tmp_path / "saev" / "sae.pt", RELU, w)
    files.saev_checkpoint(tmp_path / "run" / "checkpoint" / "sae.pt", RELU, w)
    files.saelens(tmp_path / "lens", w, architecture="standard")
    files.dictionary_learning(tmp_path / "dl", "AutoEncoder", files.linear(w, "bias"))
    save_dictionary(SparseAutoencoder(6, 20, TopK(2)), tmp_path / "ours")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "metadata.json").write_text("{}")
    (tmp_path / "shards" / "acts000000.bin").write_bytes(b"")
    return {
        "saev": ("saev", "saev/sae.pt"), "saev/sae.pt": ("saev", "saev/sae.pt"), "run": ("saev", "run/checkpoint/sae.pt"),
        "lens": ("SAELens", "lens"), "lens/cfg.json": ("SAELens", "lens"),
        "dl": ("dictionary_learning", "dl/ae.pt"), "dl/ae.pt": ("dictionary_learning", "dl/ae.pt"),
        "ours": ("ours", "ours"), "ours/dictionary.safetensors": ("ours", "ours"),
        "shards": ("saev shards", "shards"),
    }  # fmt: skip


def test_every_kind_is_found_out(folders, tmp_path):
    assert {name: opening.identify(tmp_path / name) for name in folders} == {
        name: (kind, tmp_path / path) for name, (kind, path) in folders.items()
    }
    assert all(kind in KNOWN for kind, _ in folders.values())


def test_each_is_read_by_its_own_reader(folders, tmp_path):
    found = {name: opening.read(*opening.identify(tmp_path / name), Options()) for name in ("saev", "lens", "dl")}
    assert [one.library for one in found.values()] == ["saev", "SAELens", "dictionary_learning"]
    x = torch.from_numpy(files.inputs())
    np.testing.assert_allclose(
        found["lens"].sae(x), found["dl"].sae(x), rtol=1e-4, atol=1e-4
    )  # both centre the encoder


def test_options_of_another_library_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match=r"--centred-encoder, --mean: .*written by SAELens"):
        opening.read("SAELens", tmp_path / "lens", Options(centred=True, mean=tmp_path))
    with pytest.raises(ValueError, match=r"--scale: .*dictionary_learning"):
        opening.read("dictionary_learning", tmp_path / "dl" / "ae.pt", Options(scale="2"))


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        opening.identify(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"nothing that can be converted(.|\n)*ae.pt with config.json"):
        opening.identify(tmp_path)
