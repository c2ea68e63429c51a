"""Export to SAELens' format (version 6): sae_weights.safetensors and cfg.json, normalisation folded into the weights.

relu -> standard ;  topk -> topk ;  jumprelu -> jumprelu ;  gated -> gated
batchtopk, topk with a threshold -> jumprelu with equal thresholds, as SAELens does
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from saev.dictionary import Dictionary
from saev.files import write_atomically
from saev.interop.saelens import CONFIG, WEIGHTS
from saev.nn import SparseAutoencoder

FORMAT = "6.0.0"  # of these keys and equations; SAELens reads older versions differently


def write(dictionary: Dictionary, about: Mapping[str, Any], folder: Path) -> Path:
    """Write an autoencoder for SAELens; `about` is its config.json, whose provenance becomes metadata.

    Codes are unchanged. ValueError for a dictionary that is no sparse autoencoder.
    """
    if not isinstance(dictionary, SparseAutoencoder):
        raise ValueError(
            f"{type(dictionary).__name__} has no counterpart in SAELens: its formats hold relu, topk, batchtopk, jumprelu and gated "
            "autoencoders."
        )
    sae = dictionary.folded()
    architecture, extra, tensors = parts(sae)
    weights = {"W_enc": sae.w_enc, "W_dec": sae.w_dec, "b_dec": sae.b_dec, **tensors}
    config = {
        "architecture": architecture, "d_in": sae.d_model, "d_sae": sae.n_latents, **extra, "dtype": "float32",
        "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": metadata(about),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}
    write_atomically(folder / WEIGHTS, save(tensors))
    write_atomically(folder / CONFIG, json.dumps(config, indent=1).encode())
    return folder


def parts(sae: SparseAutoencoder) -> tuple[str, dict[str, Any], Mapping[str, Tensor]]:
    """(architecture, its keys of cfg.json, its tensors beside W_enc, W_dec and b_dec)."""
    sparsifier: Any = sae.sparsifier
    kind, b_enc = sparsifier.settings.kind, {"b_enc": sae.b_enc}
    if kind == "gated":
        return "gated", {}, {"r_mag": sparsifier.r, "b_gate": sparsifier.b_gate, "b_mag": sparsifier.b_mag}
    if kind == "relu":
        return "standard", {}, b_enc
    if sparsifier.k_per_token is not None:
        return "topk", {"k": sparsifier.k_per_token, "rescale_acts_by_decoder_norm": False}, b_enc
    if sparsifier.threshold is None:
        raise ValueError(f"a {kind} autoencoder has no counterpart in SAELens: it is not exported.")
    if bool((sparsifier.threshold < 0).any()):
        raise ValueError("a threshold is below 0, which SAELens reads as 0: train further, or correct the threshold.")
    return "jumprelu", {}, {**b_enc, "threshold": sparsifier.threshold + torch.zeros_like(sae.b_enc)}


def metadata(about: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionary's provenance, under SAELens' names where it has them, and the keys of our config.json."""
    origin = about.get("provenance") or {}
    vit, layer = (origin.get("vit") or {}).get("name"), origin.get("layer")
    named = {"model_name": vit, "hook_name": None if layer is None else f"blocks.{layer}.{origin.get('hook', 'resid_post')}",
             "dataset_path": origin.get("images")}  # fmt: skip
    return {
        "sae_lens_version": FORMAT,
        **{key: value for key, value in named.items() if value},
        "saev_lightning": {key: about[key] for key in ("sparsifier", "hyperparameters", "provenance") if key in about},
    }
