"""A small recording whose every number is known, and dictionaries to look at it with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saev.nn import ReLU, SparseAutoencoder
from saev.shards import ActivationStore, RecordingWriter

GRID, D_MODEL, N_IMAGES, LAYER = (3, 4), 6, 10, 2


class Photos:
    """An image source of solid colours: image i has red = 20 * i."""

    def paths(self) -> list[str]:
        return [f"{chr(ord('a') + i)}.jpg" for i in range(N_IMAGES)]

    def open(self, index: int) -> Image.Image:
        return Image.new("RGB", (40, 30), (20 * index, 0, 90))


class Gone:
    """An image source whose folder has been deleted."""

    def paths(self) -> list[str]:
        return Photos().paths()

    def open(self, index: int) -> Image.Image:
        raise FileNotFoundError("the photos were moved")


def identity_sae(d_model: int = D_MODEL) -> SparseAutoencoder:
    """Codes are relu(x): latent j reads dimension j."""
    sae = SparseAutoencoder(d_model, d_model, ReLU(0.0))
    with torch.no_grad():
        sae.w_enc.copy_(torch.eye(d_model))
        sae.w_dec.copy_(torch.eye(d_model))
    return sae.eval().requires_grad_(False)


def make_store(
    root: Path, values: np.ndarray, order: np.ndarray, roles: dict[str, int], **vit: object
) -> ActivationStore:
    """A complete recording of values[image, token, d_model], image `order[i]` of the source at place i."""
    meaning = {
        "images": {"kind": "test", "name": "colours", "n": len(values)},
        "vit": {"name": "micro", "arch": "test"} | (vit or {"image_size": [30, 40], "resize": "crop"}),
        "hook": "resid_post",
        "grid": list(GRID),
    }
    writer = RecordingWriter(root, meaning, len(values), 4, [LAYER], roles, values.shape[-1], "float32")
    for shard in writer.pending():
        with writer.shard(shard) as out:
            for i in writer.examples_of(shard):
                path = Photos().paths()[order[i]]
                row = {"key": path, "path": path, "width": 40, "height": 30, "grid_h": GRID[0], "grid_w": GRID[1]}
                out.add(i, {LAYER: values[i]}, row)
    done = writer.finish()
    assert done is not None
    return ActivationStore(done)


@pytest.fixture(scope="session")
def order() -> np.ndarray:
    """Place in the recording -> number in the image source."""
    return np.random.default_rng(5).permutation(N_IMAGES)


@pytest.fixture(scope="session")
def values() -> np.ndarray:
    """Activations [images, 1 cls + patches, d_model]: about a third above 0; dimension 5 is never above 0."""
    rng = np.random.default_rng(0)
    values = rng.normal(-0.4, 1, (N_IMAGES, 1 + GRID[0] * GRID[1], D_MODEL)).astype(np.float32)
    values[..., 5] = -np.abs(values[..., 5])
    return values


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, order: np.ndarray) -> ActivationStore:
    """The activations as a recording with a cls token, in shuffled order."""
    root = tmp_path_factory.mktemp("recording") / "colours-micro"
    return make_store(root, values, order, {"cls": 1, "patches": GRID[0] * GRID[1]})


@pytest.fixture
def photos() -> Photos:
    """The image source of the recording."""
    return Photos()


@pytest.fixture
def gone() -> Gone:
    """The same source after its folder was deleted."""
    return Gone()


@pytest.fixture
def sae() -> SparseAutoencoder:
    """Codes are relu(x)."""
    return identity_sae()
