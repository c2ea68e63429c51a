"""Recordings of activations that are in memory already."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from saev.shards.codec import stored_row
from saev.shards.manifest import FILE, Manifest
from saev.shards.reader import ActivationStore
from saev.shards.writer import RecordingWriter

SHARD_BYTES = 128_000_000


def store_activations(acts: Any, root: str | os.PathLike, layer: int = 0) -> ActivationStore:
    """Record activations that are in memory at `root`, for training, evaluation, encoding.

    `acts` is a tensor or array [n, d_model] (a token per example) or [images, tokens, d_model]; float16 stays float16,
    everything else is stored as float32. Training and validation are split by example. Returns at once if `root` holds
    the same activations; ValueError for other contents, and for NaN or infinite values.

    >>> import tempfile
    >>> root = tempfile.mkdtemp() + "/noise"
    >>> store = store_activations(np.random.default_rng(0).normal(size=(100, 16)), root, layer=8)
    >>> store.layers, store.read(8, 0).shape
    ((8,), (1, 16))
    """
    root, values = Path(root), as_images(acts)
    n_images, n_tokens, d_model = values.shape
    width, dtype = stored_row(d_model, values.dtype.name)
    meaning = {
        "images": {"kind": "tensor", "name": root.name, "n": n_images},
        "vit": {"name": "tensor"},
        "layers": [layer],
        "roles": {"patches": n_tokens},
        "digest": hashlib.sha256(values.data).hexdigest(),
    }
    if (root / FILE).is_file() and (stored := Manifest.load(root)).complete and stored.meaning == meaning:
        return ActivationStore(root)
    per_shard = max(1, SHARD_BYTES // (n_tokens * width * dtype.itemsize))
    writer = RecordingWriter(root, meaning, n_images, per_shard, [layer], meaning["roles"], d_model, dtype.name)
    row = {"width": None, "height": None, "grid_h": 1, "grid_w": n_tokens}
    for number in writer.pending():
        with writer.shard(number) as shard:
            for i in writer.examples_of(number):
                shard.add(i, {layer: values[i]}, {"key": f"{i}", "path": f"{i}", **row})
    writer.finish()
    return ActivationStore(root)


def as_images(acts: Any) -> Shaped[np.ndarray, "images tokens d_model"]:
    """The activations as float16 or float32 in C order; ValueError for another number of dimensions, or none."""
    values = acts.detach().cpu() if hasattr(acts, "detach") else np.asarray(acts)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(
            f"activations of shape {tuple(values.shape)}: must be [n, d_model] or [images, tokens, d_model]."
        )
    half = str(values.dtype).endswith("float16") and "bfloat16" not in str(values.dtype)
    values = np.asarray(values if isinstance(values, np.ndarray) or half else values.float())
    values = np.ascontiguousarray(values, np.float16 if half else np.float32)
    return values[:, None] if values.ndim == 2 else values
