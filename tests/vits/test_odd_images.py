"""Pictures of every kind through a whole recording: none stops it, none is mistaken for another, none is poisoned."""

import numpy as np
import polars as pl
import pytest
from PIL import Image
from vits.micro_recordings import recording

from saev.images import FolderImages
from saev.shards import ActivationStore
from saev.vits import MicroVit

VITS = {
    "fixed": MicroVit(),
    **{fit: MicroVit(resize="flex", n_patches=25, fit=fit) for fit in ("stretch", "crop", "pad")},
}
BROKEN = {"cut.jpg", "empty.png", "text.jpg"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (48, 72, 3), dtype=np.uint8)).resize((144, 96))
    colours.save(root / "rgb.png")
    colours.convert("L").save(root / "grey.png")
    colours.convert("L").convert("RGB").save(root / "grey_as_rgb.png")
    rgba = colours.convert("RGBA")
    rgba.putalpha(255)
    rgba.save(root / "rgba_opaque.png")
    colours.convert("P").save(root / "palette.png")
    colours.convert("1").save(root / "bits.png")
    colours.convert("CMYK").save(root / "cmyk.jpg", quality=95)
    deep = np.asarray(colours.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(root / "grey16.png")
    turned = colours.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    turned.save(root / "turned.png", exif=exif)
    for width, height in [(300, 1), (1, 300), (1, 1), (2, 3)]:
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / f"{width}x{height}.png")
    whole = (root / "cmyk.jpg").read_bytes()
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    (root / "empty.png").write_bytes(b"")
    (root / "text.jpg").write_text("not a picture")
    return root


@pytest.mark.parametrize("kind", VITS)
def test_a_recording_of_odd_pictures_is_whole_and_right(odd, tmp_path, kind):
    store = ActivationStore(recording(odd, tmp_path, vit=VITS[kind], dtype="float32").run(False))
    table, n_files = store.examples, len(FolderImages(root=str(odd)).paths())
    assert len(table) == n_files and {*table.filter(pl.col("error").is_not_null())["key"]} == BROKEN
    rows = {row["key"]: row for row in table.iter_rows(named=True)}
    acts = {key: store.read(3, row["index"]) for key, row in rows.items() if key not in BROKEN}
    for key, values in acts.items():
        row = rows[key]
        assert values.shape == (row["grid_h"] * row["grid_w"], 32) and np.isfinite(values).all(), key
        assert values.std() > 0.02, f"{key} is blank"
    for same, original in {
        "rgba_opaque.png": "rgb.png",
        "turned.png": "rgb.png",
        "grey16.png": "grey.png",
        "grey_as_rgb.png": "grey.png",
    }.items():
        assert (rows[same]["width"], rows[same]["height"]) == (144, 96)
        np.testing.assert_allclose(acts[same], acts[original], atol=1e-4, err_msg=same)
    if kind != "fixed":
        assert [rows[f"{s}.png"]["grid_h"] for s in ("300x1", "1x300", "1x1")] == [1, 25, 5]
