"""A photo that was not recorded has the latents of one that was."""

import io

import numpy as np
import pytest
from explore.test_latent_and_image import unpacked
from PIL import Image

from saev.explore import cards
from saev.explore.upload import Reader
from saev.vits.micro import MicroVit


def test_it_has_the_codes_of_the_recorded_photo(recorded):
    reader = Reader(MicroVit(), "cpu")
    for example in range(2):
        path = recorded.codes.images["path"][example]
        file = recorded.album.images.folder / path
        made, expected = reader.card(recorded, file.read_bytes(), "mine.png"), cards.image_card(recorded, example)
        assert (made["grid"], made["top"], made["path"], made["example"]) == ([4, 4], 16, "mine.png", -1)
        assert [j for j, _ in made["strongest"]] == [j for j, _ in expected["strongest"]]
        np.testing.assert_allclose([c for _, c in made["strongest"]], [c for _, c in expected["strongest"]], rtol=1e-3)
        latents = [np.array(card["names"])[unpacked(card["latents"], "<u2")] for card in (made, expected)]
        np.testing.assert_array_equal(*latents)
        assert made["upper"] == pytest.approx(expected["upper"], rel=1e-4)
        assert float(made["error"]["mean"]) == pytest.approx(float(expected["error"]["mean"]), rel=0.02)


def test_what_is_no_photo_or_of_another_backbone_is_refused(recorded):
    with pytest.raises(ValueError, match=r"notes\.png is no image that can be read"):
        Reader(MicroVit(), "cpu").card(recorded, b"text", "notes.png")
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "png")
    with pytest.raises(ValueError, match="another backbone"):
        Reader(MicroVit(seed=1), "cpu").card(recorded, buffer.getvalue(), "black.png")
