"""Any dictionary to and from a directory: dictionary.safetensors and config.json, no pickle.

config.json: {schema, kind, d_model, n_latents, activation: {kind, ...}, hyperparameters, provenance, metrics}.
Activations go in raw: the normalisation is stored with the weights and applied inside.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from saev.dictionary import Dictionary
from saev.nn.activations import Activation, BatchTopK, TopK
from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.gated import Gated
from saev.nn.jumprelu import JumpReLU
from saev.nn.normalise import Normaliser
from saev.nn.penalised import ReLU
from saev.shards.manifest import write_atomically

SCHEMA = 1
WEIGHTS, CONFIG = "dictionary.safetensors", "config.json"
ACTIVATIONS: dict[str, type[Activation]] = {
    cls.__name__.lower(): cls for cls in (ReLU, TopK, BatchTopK, JumpReLU, Gated)
}


def save_dictionary(sae: SparseAutoencoder, directory: str | Path, **about: Any) -> Path:
    """Write an autoencoder into `directory`; `about` (hyperparameters, provenance, metrics) goes into config.json."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    sae = sae.baked()
    kind = next(name for name, cls in ACTIVATIONS.items() if type(sae.activation) is cls)
    config = {
        "schema": SCHEMA,
        "kind": "sae",
        "d_model": sae.d_model,
        "n_latents": sae.n_latents,
        "activation": {"kind": kind, **sae.activation.settings()},
        **about,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    write_atomically(directory / WEIGHTS, save(weights))
    write_atomically(directory / CONFIG, json.dumps(config, indent=1).encode())  # last: its presence says complete
    return directory


def load(directory: str | Path, device: str | torch.device = "cpu") -> Dictionary:
    """The dictionary saved in `directory`, in evaluation mode, without gradients; ValueError where there is none."""
    directory = Path(directory)
    config = read_config(directory)
    if config["schema"] != SCHEMA or config["kind"] != "sae":
        raise ValueError(
            f"{directory / CONFIG} has schema {config['schema']} and kind {config['kind']!r}; this version reads schema {SCHEMA} "
            "and kind 'sae': update saev-lightning."
        )
    settings = dict(config["activation"])
    weights = load_file(directory / WEIGHTS, device=str(device))
    normaliser = Normaliser(weights["normaliser.mean"], weights["normaliser.scale"])
    sae = SparseAutoencoder(
        config["d_model"], config["n_latents"], ACTIVATIONS[settings.pop("kind")](**settings), normaliser
    )
    sae.to(device).load_state_dict(weights)
    return sae.eval().requires_grad_(False)


def read_config(directory: str | Path) -> Mapping[str, Any]:
    """config.json of a saved dictionary: what it is, how it was trained, and its metrics."""
    path = Path(directory) / CONFIG
    if not path.is_file():
        inside = (
            sorted(p.parent.name for p in Path(directory).glob(f"saes/*/{CONFIG}")) if Path(directory).is_dir() else []
        )
        hint = f" It is a run; its dictionaries are under saes/: {inside}." if inside else ""
        raise ValueError(f"{directory} is not a saved dictionary: {CONFIG} is missing.{hint}")
    return json.loads(path.read_text())
