"""What the page shows of a picture is what the backbone saw of it."""

import numpy as np
import pytest
from PIL import Image

from saev.visuals.pictures import model_view
from saev.vits import MicroVit

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)).resize((640, 360))


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(640, 360), (300, 1), (60, 200)])
def test_pictures_of_their_own_grid_are_shown_as_they_were_seen(fit, size):
    vit, picture = MicroVit(resize="flex", n_patches=20, fit=fit), PICTURE.resize(size)
    seen = vit.load().transform(picture)
    height, width = seen.shape[1:]
    view = model_view(picture, vit.identity(), max(height, width))
    assert abs(view.width / view.height - width / height) < 0.06 * width / height
    ours = np.asarray(view.resize((width, height)), float).mean(2) / 127.5 - 1
    assert np.abs(ours - seen.mean(0).numpy()).mean() < 0.12


def test_without_a_description_the_whole_picture_is_shown():
    assert model_view(PICTURE, {}, 320).size == (320, 180)
