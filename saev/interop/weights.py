"""Reading other libraries' files: weights without pickle, with the shapes of their format."""

import hashlib
import io
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def load_torch(data: bytes, where: str) -> Any:
    """The tensors and plain containers in bytes that torch saved (weights_only=True). ValueError for anything else."""
    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(
            f"{where} holds no weights that can be read without running code ({str(error).splitlines()[0]}): "
            "save its state dict by torch.save(model.state_dict(), ...), or restore the file."
        ) from error


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


def load_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; ValueError where it is missing or something else."""
    try:
        mapping = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): restore it beside the weights.") from error
    if not isinstance(mapping, dict):
        raise ValueError(f"{path} holds a {type(mapping).__name__}, not the keys of a configuration: restore it.")
    return mapping


def checked(
    state: Any, shapes: Mapping[str, str], sizes: Mapping[str, int | None], where: str, optional: Iterable[str] = ()
) -> dict[str, Tensor]:
    """The tensors of a state dict in float64: exactly those named in `shapes`, those in `optional` may be missing.

    Args:
        shapes: axes by name, e.g. {"W_enc": "d_model d_sae", "k": ""}.
        sizes: sizes of axes that the configuration states (None: it does not).

    Raises ValueError naming missing and unknown tensors, other shapes, and values that are not finite.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{where} holds a {type(state).__name__}, no state dict: give the file of the weights.")
    missing, unknown = sorted({*shapes} - {*state} - {*optional}), sorted({*state} - {*shapes})
    if missing or unknown:
        raise ValueError(
            f"{where} has tensors of another architecture (missing: {missing}, not known: {unknown}): check that the "
            "weights and the configuration belong together, or update saev-lightning."
        )
    known = {axis: size for axis, size in sizes.items() if size is not None}
    for name, value in state.items():
        axes = shapes[name].split()
        # an axis has the size of its first tensor
        expected = tuple(known.setdefault(axis, size) for axis, size in zip(axes, value.shape, strict=False))
        if tuple(value.shape) != expected or value.ndim != len(axes):
            raise ValueError(
                f"{where}: {name} has shape {tuple(value.shape)}, not [{', '.join(axes)}] with {known}: the weights do "
                "not belong to this configuration."
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{where}: {name} has NaN or infinite values: the SAE diverged, take another checkpoint.")
    return {name: value.double() for name, value in state.items()}


def refuse_unknown(keys: Iterable[str], known: Iterable[str], where: str, ignore: bool) -> list[str]:
    """Notes about keys of a configuration that are not known here; ValueError naming them unless `ignore`."""
    unknown = sorted({*keys} - {*known})
    if unknown and not ignore:
        raise ValueError(
            f"{where} has keys that this version does not know: {', '.join(unknown)}. They may change what the SAE computes: "
            "if they do not, give --ignore-unknown; the keys are kept in config.json."
        )
    return [f"keys of the configuration that were not understood: {', '.join(unknown)}"] if unknown else []


def positive(value: Any, key: str, where: str) -> int:
    """`value` as a positive integer; ValueError naming the key."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 1:
        raise ValueError(f"{where}: {key}={value} is not a positive integer: restore the file.")
    return int(value)


def sha256(data: bytes) -> str:
    """sha256 (hex)."""
    return hashlib.sha256(data).hexdigest()


def unread_files(folder: Path, read: Iterable[str]) -> list[str]:
    """A note with the names of the files that were not read."""
    unread = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in {*read})
    return [f"files beside it that were not read: {', '.join(unread)}"] if unread else []
