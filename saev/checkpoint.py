"""Saving and loading dictionaries: a directory with dictionary.safetensors and config.json, no pickle.

config.json: {schema, kind, d_model, n_latents, sparsifier: {kind, ...} (of an SAE) or settings (of a baseline),
hyperparameters, provenance, metrics, sha256: {config, weights, start}}.
A loaded dictionary takes raw activations: the normaliser is stored with the weights.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_weights
from safetensors.torch import save
from torch import Tensor

from saev.baselines.baseline import Baseline
from saev.baselines.settings import BaselineSettings
from saev.dictionary import Dictionary
from saev.files import fingerprint, write_atomically
from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.normalise import Normaliser
from saev.nn.sparsifiers import SPARSIFIERS

SCHEMA = 1
WEIGHTS, CONFIG, START = "dictionary.safetensors", "config.json", "start.safetensors"
FIXED = ("decoder", "all")  # values of `freeze` with which atoms are those of the start
BASELINES = [cls.kind for cls in BaselineSettings.__subclasses__()]


def save_dictionary(
    dictionary: SparseAutoencoder | Baseline, directory: str | Path, *, start: Tensor | None = None, **about: Any
) -> Path:
    """Write a dictionary into `directory`; `about` (hyperparameters, provenance, metrics) goes into config.json.

    start: the atoms at the start of training [n_latents, d_model], unit rows in normalised space; saved in float16 beside the weights.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(dictionary, SparseAutoencoder):
        dictionary = dictionary.finalised()
    config = {
        "schema": SCHEMA,
        **_what(dictionary),
        "d_model": dictionary.d_model,
        "n_latents": dictionary.n_latents,
        **about,
    }
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in dictionary.state_dict().items()})
    write_atomically(directory / WEIGHTS, weights)
    config["sha256"] = {"config": config_digest(config), "weights": hashlib.sha256(weights).hexdigest()}
    if start is None:
        (directory / START).unlink(missing_ok=True)  # of another dictionary that was here
    else:
        atoms = save({"atoms": start.detach().half().cpu().contiguous()})
        write_atomically(directory / START, atoms)
        config["sha256"]["start"] = hashlib.sha256(atoms).hexdigest()
    # last: its presence marks the dictionary as complete
    write_atomically(directory / CONFIG, json.dumps(config, indent=1).encode())
    return directory


def config_digest(config: Mapping[str, Any]) -> str:
    """sha256 of config.json without its hashes."""
    return fingerprint(json.loads(json.dumps({key: value for key, value in config.items() if key != "sha256"})))


def _what(dictionary: SparseAutoencoder | Baseline) -> dict[str, Any]:
    """Kind and settings, as in config.json."""
    if isinstance(dictionary, Baseline):
        return {"kind": dictionary.kind, "settings": dictionary.settings()}
    return {"kind": "sae", "sparsifier": dictionary.sparsifier.settings.as_dict()}


def load(directory: str | Path, device: str | torch.device = "cpu") -> Dictionary:
    """The dictionary saved in `directory`, in evaluation mode, without gradients.

    ValueError where there is none, or none that is whole.
    """
    directory = Path(directory)
    config = read_config(directory)
    kinds = ("sae", *BASELINES)
    if config["schema"] != SCHEMA or config["kind"] not in kinds:
        raise ValueError(
            f"{directory / CONFIG} has schema {config['schema']} and kind {config['kind']!r}; this version reads schema {SCHEMA} "
            f"and kinds {', '.join(kinds)}: update saev-lightning."
        )
    try:
        stored = (directory / WEIGHTS).read_bytes()
        if (digest := hashlib.sha256(stored).hexdigest()) != config["sha256"]["weights"]:
            raise OSError(f"{WEIGHTS} has sha256 {digest[:8]}..., {CONFIG} says {config['sha256']['weights'][:8]}...")
        weights = read_weights(stored)
        made = _empty(config, weights)
        made.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{directory} is damaged ({error}): restore it, or train it again.") from error
    return made.to(device).eval().requires_grad_(False)


def start_of(directory: str | Path) -> Tensor | None:
    """The atoms [n_latents, d_model] from which the saved dictionary was trained, unit rows in the space of its `atoms`, float32.

    With freeze=decoder and freeze=all these are its atoms. None where they were not saved: of baselines and of other libraries' SAEs.
    ValueError where the file is missing or damaged.
    """
    directory = Path(directory)
    config = read_config(directory)
    if (digest := config["sha256"].get("start")) is None:
        fixed = (config.get("hyperparameters") or {}).get("freeze") in FIXED
        return load(directory).atoms.float() if fixed else None
    try:
        stored = (directory / START).read_bytes()
        if hashlib.sha256(stored).hexdigest() != digest:
            raise OSError("its sha256 is another one than was written")
    except OSError as error:
        raise ValueError(
            f"{directory / START} is missing or damaged ({error}): restore it, or train it again."
        ) from error
    return read_weights(stored)["atoms"].float()


def _empty(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> SparseAutoencoder | Baseline:
    """The dictionary that config.json describes, its weights still to be loaded."""
    normaliser = Normaliser(weights["normaliser.mean"], weights["normaliser.scale"])
    shape = config["n_latents"], config["d_model"]
    if config["kind"] == "sae":
        settings = dict(config["sparsifier"])
        return SparseAutoencoder(shape[1], shape[0], SPARSIFIERS[settings.pop("kind")](**settings), normaliser)
    return baseline_class(config["kind"])(normaliser, torch.zeros(shape), **config["settings"])


def baseline_class(kind: str) -> type[Baseline]:
    """The dictionary of this kind, defined in saev/baselines/<kind>.py."""
    module = importlib.import_module(f"saev.baselines.{kind}")
    return next(
        cls for cls in vars(module).values() if getattr(cls, "kind", None) == kind and issubclass(cls, Baseline)
    )


def read_config(directory: str | Path) -> Mapping[str, Any]:
    """config.json of a saved dictionary: kind and settings, hyperparameters, provenance and metrics.

    ValueError where it is missing, incomplete, of another program, or without its weights.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        inside = (
            sorted(p.parent.name for p in Path(directory).glob(f"saes/*/{CONFIG}")) if Path(directory).is_dir() else []
        )
        hint = f" It is a run; its dictionaries are under saes/: {inside}." if inside else ""
        raise ValueError(f"{directory} is not a saved dictionary: {CONFIG} is missing.{hint}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it, or train the dictionary again.") from error
    if not (isinstance(config, dict) and {"schema", "kind", "d_model", "n_latents", "sha256"} <= {*config}):
        raise ValueError(
            f"{path} does not describe a dictionary of saev: `saev convert` reads those of other libraries."
        )
    if config["schema"] == SCHEMA and config_digest(config) != config["sha256"].get("config"):
        raise ValueError(
            f"{path} is damaged (its sha256 is another one than was written): restore it, or train the dictionary again."
        )
    if not path.with_name(WEIGHTS).is_file():
        raise ValueError(
            f"{directory} is not a complete dictionary: {WEIGHTS} is missing; restore it, or train it again."
        )
    return config
