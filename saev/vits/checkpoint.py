"""Local weight files: read without executing code, identified by content, loaded into a timm model."""

import contextlib
import io
import pickle
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.files import sha256

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def check_file(checkpoint: str) -> Path:
    """The path of a weight file; ValueError where it is missing or of an unknown type."""
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise ValueError(f"vit.checkpoint={checkpoint} does not exist: give a weight file, vit.checkpoint=/path.pth.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"vit.checkpoint={checkpoint} is none of {', '.join(SUFFIXES)}: convert it to safetensors.")
    return path


def digest(path: Path) -> str:
    """sha256 (hex) of the file; hashed once per process while size and modification time stay the same."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@cache
def _digest(path: Path, size: int, mtime: int) -> str:
    return sha256(path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a weight file; pickled code is never run.

    Raises ValueError where the file is damaged or contains more than tensors.
    """
    from safetensors import SafetensorError
    from timm.models import clean_state_dict

    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"vit.checkpoint={path} cannot be read as plain tensors ({why}): "
            "fetch it again, or convert it to safetensors."
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return clean_state_dict({k: v for k, v in state.items() if isinstance(v, Tensor)})


def fit(model: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load `state` into a timm model by the model family's key mapping; position grids are resampled to its size.

    The file must contain every weight of the model; its heads and pretext parts may remain unused.
    """
    takes_bias = any(k.endswith(("q_bias", "qkv.bias", "q_proj.bias")) for k, _ in model.named_parameters())
    if not takes_bias and any(k.endswith("qkv.bias") and has_query_or_value(v) for k, v in state.items()):
        raise ValueError(
            f"{what} has query and value biases that this arch lacks: use the variant whose name has _qkvb."
        )
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # timm's mapping prints a line per dropped bias
            state = convert(state, model) if convert else state
        missing, unused = model.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, AssertionError) as error:  # other shapes, or names unknown to the mapping
        raise ValueError(f"{what} does not fit this vit.arch: {' '.join(str(error).split()[:40])}") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]  # used only in training
    stages = [info["module"].split(".")[0] + "." for info in getattr(model, "feature_info", [])]
    of_blocks = [key for key in unused if key.startswith(("blocks.", *stages))]  # unused ones show another model's file
    if missing or of_blocks:
        raise ValueError(
            f"{what} does not fit this vit.arch: {len(missing)} weights missing ({', '.join(missing[:3])}), "
            f"{len(of_blocks)} weights of blocks unused ({', '.join(of_blocks[:3])}); give the file's vit.arch."
        )


def has_query_or_value(bias: Float[Tensor, "three_d"]) -> bool:
    """Whether a joint bias of query, key and value is nonzero in query or value; DINOv3 masks the key bias."""
    query, _, value = bias.chunk(3)
    return bool(query.any() or value.any())
