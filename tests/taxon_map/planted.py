"""A recording of 96 images of four animals, and a dictionary whose latents fire where the animals say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from saev.nn import ReLU, SparseAutoencoder
from saev.shards import ActivationStore, RecordingWriter

ANIMALS = ("lion", "lynx", "wolf", "fox")
FAMILY = {"lion": "Felidae", "lynx": "Felidae", "wolf": "Canidae", "fox": "Canidae"}
N, D, PATCHES = 96, 32, 4
SILENT, RARE = 4, 5


def animals(seed: int = 0) -> np.ndarray:
    """24 of each, shuffled."""
    return np.random.default_rng(seed).permutation(np.repeat(ANIMALS, N // 4))


def planted_codes(animal: np.ndarray) -> np.ndarray:
    """float32 [images, D]. 0: cats. 1: 20 of 24 lions, and 4 wolves. 2 and 3: wolves (2 also lynxes, 3 also foxes).
    4: nothing. 5: two images. The others fire at random."""
    rng = np.random.default_rng(1)
    codes = np.zeros((N, D), np.float32)
    lions, wolves = np.flatnonzero(animal == "lion"), np.flatnonzero(animal == "wolf")
    codes[np.isin(animal, ("lion", "lynx")), 0] = 1
    codes[[*lions[:20], *wolves[:4]], 1] = 2
    codes[np.isin(animal, ("wolf", "lynx")), 2] = 1
    codes[np.isin(animal, ("wolf", "fox")), 3] = 3
    codes[:2, RARE] = 1
    codes[:, 6:] = (rng.random((N, D - 6)) < 0.2) * rng.uniform(0.5, 2, (N, D - 6))
    return codes


def planted_recording(root: Path) -> tuple[ActivationStore, np.ndarray]:
    """(the recording at layer 4: each code is on one patch of its image; the codes)."""
    animal = animals()
    codes = planted_codes(animal)
    columns = {
        "animal": animal.tolist(),
        "specimen": [f"{animal[i]}{i // 8}" for i in range(N)],
        "camera": [f"c{i % 3}" for i in range(N)],
    }
    return recorded(root, codes, columns), codes


def recorded(root: Path, codes: np.ndarray, columns: Mapping[str, Sequence]) -> ActivationStore:
    """A recording at layer 4 with these columns of images: each code is on one patch of its image."""
    n, d = codes.shape
    meaning = {"images": {"name": "animals"}, "vit": {"name": "none", "image_size": [16, 16]}}
    writer = RecordingWriter(root, meaning, n, 40, [4], {"patches": PATCHES}, d, "float32")
    for shard in writer.pending():
        with writer.shard(shard) as out:
            for i in writer.examples_of(shard):
                acts = np.zeros((PATCHES, d), np.float32)
                acts[np.arange(d) % PATCHES, np.arange(d)] = codes[i]
                row = {"key": f"{i}", "path": f"{i:03}.jpg", "grid_h": 2, "grid_w": 2}
                out.add(i, {4: acts}, row | {name: values[i] for name, values in columns.items()})
    writer.finish()
    return ActivationStore(root)


def identity(scale: float = 1.0) -> SparseAutoencoder:
    """Codes are relu(x)."""
    sae = SparseAutoencoder(D, D, ReLU(0.0))
    with torch.no_grad():
        sae.w_enc.copy_(scale * torch.eye(D))
        sae.w_dec.copy_(torch.eye(D))
    return sae.eval().requires_grad_(False)


def taxonomy(path: Path) -> Path:
    """A csv of families by animal."""
    path.write_text("animal,family\n" + "".join(f"{animal},{family}\n" for animal, family in FAMILY.items()))
    return path
