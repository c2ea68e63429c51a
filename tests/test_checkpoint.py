"""A saved dictionary whose files have changed is refused, whichever bit it is."""

import json

import numpy as np
import pytest
import torch
from signing import sign

import saev
from saev.checkpoint import CONFIG, WEIGHTS, save_dictionary
from saev.nn import SparseAutoencoder, TopK


@pytest.fixture
def saved(tmp_path):
    return save_dictionary(
        SparseAutoencoder(8, 16, TopK(2)), tmp_path / "k=2", metrics={"nmse": 0.1, "l0": float("nan")}
    )


def test_what_is_saved_is_loaded(saved):
    assert saev.load(saved).n_latents == 16 and set(saev.read_config(saved)["sha256"]) == {"config", "weights"}


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_flipped_bit_anywhere_is_noticed(saved, file):
    content = (saved / file).read_bytes()
    for at in np.linspace(0, len(content) - 1, 60).astype(int).tolist():
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        (saved / file).write_bytes(changed)
        if file == CONFIG and unchanged(content, changed):
            continue
        with pytest.raises(ValueError, match=r"(is damaged|cannot be read|does not describe|has schema)"):
            saev.load(saved)


def unchanged(content, changed):
    """Whether the two texts say the same: a blank is another blank."""
    try:
        return json.dumps(json.loads(content)) == json.dumps(json.loads(changed))
    except ValueError:
        return False


def test_another_dictionarys_weights_are_refused(saved, tmp_path):
    other = SparseAutoencoder(8, 16, TopK(2))
    torch.nn.init.ones_(other.b_dec)
    other = save_dictionary(other, tmp_path / "other")
    (saved / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match=r"k=2 is damaged \(dictionary\.safetensors has sha256 .*restore it, or train"):
        saev.load(saved)
    sign(saved)
    saev.load(saved)
