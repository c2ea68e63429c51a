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
) -> Path:
    """Record `n_examples` images of n_cls + tokens tokens each into `root`."""
    roles = {"cls": n_cls, "patches": tokens} if n_cls else {"patches": tokens}
    meaning = {"images": {"name": "synthetic"}, "vit": {"name": "none"}}
    writer = RecordingWriter(root, meaning, n_examples, examples_per_shard, layers, roles, d_model, dtype)
    for i in writer.pending():
        with writer.shard(i) as shard:
            for example in writer.examples_of(i):
                row = {"key": f"{example}", "path": f"{example}.jpg", "grid_h": 4, "grid_w": tokens // 4}
                if example in skipped:
                    shard.skip(example, "cannot be read", row)
                else:
                    acts = {layer: acts_of(example, layer, n_cls + tokens, d_model) for layer in layers}
                    shard.add(example, acts, row)
    writer.finish()
    return root
