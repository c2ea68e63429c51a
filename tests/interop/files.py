"""Files of other libraries as those write them: a handful of lines per format, with weights of a few latents.

Weights are float32 arrays by the name they have in the file; the writers know nothing of saev_lightning.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

D_MODEL, D_SAE = 6, 20


def affine(seed: int = 0, norms: tuple[float, float] | None = None) -> dict[str, np.ndarray]:
    """W_enc, b_enc, W_dec, b_dec; rows of W_dec have unit norm, or norms between the two given."""
    rng = np.random.default_rng(seed)
    w_dec = rng.normal(size=(D_SAE, D_MODEL))
    w_dec /= np.linalg.norm(w_dec, axis=1, keepdims=True)
    if norms:
        w_dec *= rng.uniform(*norms, size=(D_SAE, 1))
    arrays = {
        "W_enc": rng.normal(size=(D_MODEL, D_SAE)),
        "b_enc": rng.normal(size=D_SAE) * 0.3,
        "W_dec": w_dec,
        "b_dec": rng.normal(size=D_MODEL),
    }
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def inputs(n: int = 300, seed: int = 9) -> np.ndarray:
    """Activations about which these weights fire now and then."""
    return np.random.default_rng(seed).normal(0.3, 1.5, size=(n, D_MODEL)).astype(np.float32)


def state_dict(weights: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The arrays as a torch state dict."""
    return {name: torch.as_tensor(value) for name, value in weights.items()}


def saev_checkpoint(path: Path, header: Mapping[str, Any], weights: Mapping[str, Any]) -> Path:
    """sae.pt: the header in a line of JSON, then what torch.save writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        torch.save(state_dict(weights), file)
    return path


def saelens(folder: Path, weights: Mapping[str, np.ndarray], **config: Any) -> Path:
    """sae_weights.safetensors and cfg.json of version 6, unless `config` says otherwise."""
    folder.mkdir(parents=True)
    save_file(dict(weights), folder / "sae_weights.safetensors")
    base = {
        "d_in": D_MODEL, "d_sae": D_SAE, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none", "metadata": {"sae_lens_version": "6.44.0"},
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(base | config))
    return folder


def dictionary_learning(folder: Path, dict_class: str, weights: Mapping[str, Any], **trainer: Any) -> Path:
    """ae.pt and config.json as trainSAE writes them."""
    folder.mkdir(parents=True)
    torch.save(state_dict(weights), folder / "ae.pt")
    about = {"dict_class": dict_class, "activation_dim": D_MODEL, "dict_size": D_SAE, "lr": 1e-3, "layer": 3, **trainer}
    (folder / "config.json").write_text(json.dumps({"trainer": about, "buffer": {"ctx_len": 128}}))
    return folder


def linear(weights: Mapping[str, np.ndarray], decoder_bias: str) -> dict[str, np.ndarray]:
    """The same weights as torch.nn.Linear keeps them, transposed, with the decoder's bias under the name given."""
    return {
        "encoder.weight": weights["W_enc"].T.copy(),
        "encoder.bias": weights["b_enc"],
        "decoder.weight": weights["W_dec"].T.copy(),
        decoder_bias: weights["b_dec"],
    }


def largest(h: np.ndarray, k: int) -> np.ndarray:
    """h where it is among the k largest of its row, else 0."""
    cut = np.sort(h, axis=1)[:, -k][:, None]
    return np.where(h >= cut, h, 0)


def close(ours: torch.Tensor, theirs: np.ndarray) -> None:
    """Assert that an output of ours is that of the original, to float32's rounding."""
    assert np.abs(theirs).max() > 0, "nothing to compare"
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=2e-4, atol=2e-4 * np.abs(theirs).max())
