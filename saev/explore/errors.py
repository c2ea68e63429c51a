"""How well the codes of one image reconstruct each of its patches."""

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from saev.codes.store import CodeStore
from saev.dictionary import Dictionary
from saev.nn.autoencoder import SparseAutoencoder
from saev.shards import ActivationStore


@torch.inference_mode()
def patch_errors(
    dictionary: Dictionary, codes: CodeStore, store: ActivationStore, example: int, scale: float
) -> Float32[np.ndarray, "grid_h grid_w"] | None:
    """The squared error of the reconstruction of each patch from its stored codes / `scale`; NaN where a patch was not encoded, None
    for an image without a grid of patches.

    Args:
        scale: of `mean_error`; 1 is then what the mean token as the reconstruction of every token costs.
    """
    row = codes.images.row(int(np.searchsorted(codes.images["example"].to_numpy(), example)), named=True)
    first = codes.manifest.first_patch
    if not row.get("grid_h") or first is None:
        return None
    start, stop = codes.rows_of(example)
    token = codes.tokens(start, stop)[1]
    acts = torch.from_numpy(np.asarray(store.read(codes.manifest.layer, example, "all")[token], np.float32))
    rows = codes.rows(start, stop)
    if isinstance(dictionary, SparseAutoencoder):  # dense codes of many latents would take most of the time
        decoded = dictionary.decode(rows.torch())
    else:
        decoded = dictionary.decode(torch.from_numpy(rows.dense()))
    errors = squared_errors(acts, decoded, scale)
    out = np.full(row["grid_h"] * row["grid_w"], np.nan, np.float32)
    inside = (token >= first) & (token < first + len(out))
    out[token[inside] - first] = errors[inside]
    return out.reshape(row["grid_h"], row["grid_w"])


def squared_errors(
    acts: Float[Tensor, "tokens d_model"], decoded: Float[Tensor, "tokens d_model"], scale: float
) -> Float32[np.ndarray, " tokens"]:
    """The squared distance of each token from its reconstruction / `scale`."""
    return ((acts - decoded.float()) ** 2).sum(1).numpy() / np.float32(scale)


def mean_error(store: ActivationStore, layer: int, tokens: str) -> float:
    """The mean over the selected tokens of the squared distance from their mean."""
    return float(store.moments(layer, tokens).variance.sum())
