"""Runs of saev on scaled activations: the checkpoint lacks the mean and the scale, config.json says whether they were used."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saev.interop.foreign import Options
from saev.interop.weights import load_json, load_torch


def beside(path: Path, options: Options) -> tuple[bytes | None, float]:
    """(config.json of the run where there is one, its clamp); ValueError where it names a scaling whose option is missing."""
    file = path.with_name("config.json")
    if not file.is_file():
        return None, 1e5
    config = load_json(file)
    data = config.get("data") or config.get("train_data") or {}
    for key, option, given in (("scale_mean", "--mean", options.mean), ("scale_norm", "--scale", options.scale)):
        if data.get(key) and not given:
            raise ValueError(
                f"{file} says {key}={data[key]}: the SAE was trained on scaled activations, and the checkpoint does not hold "
                f"the number; give {option} (the training set's mean; or the mean of ||x - mean|| over sqrt(d_model))."
            )
    return file.read_bytes(), float(data.get("clamp", 1e5))


def scaling(options: Options, b_dec: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [d_model], scale []) in float32; 0 and 1 where none are given. ValueError for other shapes or values."""
    mean = torch.zeros_like(b_dec) if options.mean is None else tensor_of(options.mean)
    scale = torch.ones(()) if options.scale is None else number_of(options.scale)
    if mean.shape != b_dec.shape or not torch.isfinite(mean).all():
        raise ValueError(f"--mean {options.mean}: shape {tuple(mean.shape)}, must be {len(b_dec)} finite numbers.")
    if not (math.isfinite(scale.item()) and scale.item() > 0):
        raise ValueError(f"--scale {options.scale}: must be above 0.")
    return mean.float(), scale.float()


def number_of(given: str) -> Tensor:
    """The number itself, or the one in a file."""
    try:
        return torch.tensor(float(given))
    except ValueError:
        tensor = tensor_of(Path(given))
    if tensor.numel() != 1:
        raise ValueError(f"--scale {given} holds {tensor.numel()} numbers: give one.")
    return tensor.reshape(())


def tensor_of(path: Path) -> Tensor:
    """The array in a .npy file, or the tensor that torch saved; ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"{path} is neither a number nor a file: give one of them.")
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    tensor = load_torch(path.read_bytes(), str(path))
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{path} holds a {type(tensor).__name__}: give a file with one tensor.")
    return tensor
