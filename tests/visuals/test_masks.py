"""The class of a latent's strongest patch, and the patches of that class, against labels written image by image."""

import base64

import numpy as np
import pytest
from visuals.conftest import D_MODEL, GRID, LAYER

from saev.shards import ActivationStore, RecordingWriter
from saev.shards.manifest import VOID
from saev.visuals.masks import Masks
from saev.visuals.pictures import Album

N_PATCHES = GRID[0] * GRID[1]
LABELS = np.array([[0] * 6 + [7] * 6, [3] * 5 + [7] * 7, [VOID] * 12, [9] * 12], np.uint16)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> ActivationStore:
    """Four images with a cls token before their patches; the second could not be read."""
    root, about = tmp_path_factory.mktemp("labelled") / "data", {"background": [0], "classes": {"7": "wing"}}
    writer = RecordingWriter(
        root, {}, 5, 2, [LAYER], {"cls": 1, "patches": N_PATCHES}, D_MODEL, "float32", labels=about
    )
    images = [0, None, 1, 2, 3]
    for shard in writer.pending():
        with writer.shard(shard) as out:
            for i in writer.examples_of(shard):
                row = {"key": f"{i}", "path": f"{i}.jpg", "width": 4, "height": 3, "grid_h": GRID[0], "grid_w": GRID[1]}
                if images[i] is None:
                    out.skip(i, "unreadable", row)
                    continue
                labels = np.concatenate([[VOID], LABELS[images[i]]]).astype(np.uint16)
                values = np.zeros((1 + N_PATCHES, D_MODEL), np.float32)
                out.add(i, {LAYER: values}, row, labels, np.ones(len(labels), np.float16))
    done = writer.finish()
    assert done is not None
    return ActivationStore(done)


def codes(peak: int) -> np.ndarray:
    """Codes whose highest is on one patch."""
    out = np.linspace(0, 0.5, N_PATCHES, dtype=np.float32)
    out[peak] = 1
    return out.reshape(GRID)


@pytest.mark.parametrize(
    ("image", "number", "peak", "name"), [(0, 0, 8, "wing"), (2, 1, 0, "class 3"), (4, 3, 2, "class 9")]
)
def test_the_strongest_patch_names_the_class(labelled, image, number, peak, name):
    found = Masks(labelled).at_peak(image, codes(peak))
    assert found is not None and found[0] == name
    np.testing.assert_array_equal(found[1].ravel(), LABELS[number] == LABELS[number, peak])


def test_background_and_patches_without_annotation_have_none(labelled, store):
    assert Masks(labelled).at_peak(0, codes(1)) is None and Masks(labelled).at_peak(3, codes(1)) is None
    assert Masks(store).at_peak(0, codes(1)) is None, "a recording without labels"


def test_a_photo_has_a_bit_per_patch(labelled):
    shown = Album(None, labelled).shown(2, "1.0", codes(0), 1.0)
    bits = np.unpackbits(np.frombuffer(base64.b64decode(shown.mask), np.uint8))
    assert shown.label == "class 3" and bits.tolist() == [1] * 5 + [0] * 11
