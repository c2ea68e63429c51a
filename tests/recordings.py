"""Small recorded datasets for tests: sparse combinations of known atoms, so that training has something to find."""

from pathlib import Path

import numpy as np

from saev.shards import RecordingWriter


def acts_of(example: int, layer: int, tokens: int, d_model: int) -> np.ndarray:
    """The float32 activations of an image: 3 % of 4 d_model exponential features, plus an offset; a function of its number."""
    atoms = np.random.default_rng(layer).normal(size=(4 * d_model, d_model))
    rng = np.random.default_rng((example, layer))
    features = rng.exponential(size=(tokens, len(atoms))) * (rng.random((tokens, len(atoms))) < 0.03)
    return (features @ atoms + 2).astype(np.float32)


def labels_of(example: int, n_cls: int, tokens: int) -> np.ndarray:
    """The patch labels of an image, 0 to 3 in runs; 65535 for what is not a patch."""
    patches = (np.arange(tokens) // 3 + example) % 4
    return np.concatenate([np.full(n_cls, 65535), patches]).astype(np.uint16)


def record(
    root: Path,
    n_examples: int = 40,
    tokens: int = 16,
    d_model: int = 16,
    layers: tuple[int, ...] = (1,),
    examples_per_shard: int = 15,
    n_cls: int = 1,
    skipped: tuple[int, ...] = (),
    dtype: str = "float32",
    labels: bool = False,
) -> Path:
    """Record `n_examples` images of n_cls + tokens tokens each into `root`; with `labels`, those of `labels_of`."""
    roles = {"cls": n_cls, "patches": tokens} if n_cls else {"patches": tokens}
    meaning = {"images": {"name": "synthetic"}, "vit": {"name": "none"}}
    info = {"method": "majority", "classes": {}} if labels else None
    writer = RecordingWriter(root, meaning, n_examples, examples_per_shard, layers, roles, d_model, dtype, labels=info)
    if writer.needs_calibration:
        writer.calibrate({layer: acts_of(0, layer, n_cls + tokens, d_model) for layer in layers})
    for i in writer.pending():
        with writer.shard(i) as shard:
            for example in writer.examples_of(i):
                row = {"key": f"{example}", "path": f"{example}.jpg", "grid_h": 4, "grid_w": tokens // 4}
                if example in skipped:
                    shard.skip(example, "cannot be read", row)
                else:
                    acts = {layer: acts_of(example, layer, n_cls + tokens, d_model) for layer in layers}
                    own = labels_of(example, n_cls, tokens) if labels else None
                    shard.add(example, acts, row, own, None if own is None else np.ones(len(own), np.float16))
                shard.save_partial()
    writer.finish()
    return root
