"""Masks keep their ids, whatever packs them, and lie on the pixels of their image."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from saev.images import VOID
from saev.images.masks import open_mask
from saev.images.opening import ORIENTATION_TAG, open_rgb

IDS = np.arange(6, dtype=np.uint8).reshape(2, 3)


def write(path, ids, **options):
    (Image.fromarray(ids) if isinstance(ids, np.ndarray) else ids).save(path, **options)
    return path


@pytest.fixture
def image(tmp_path):
    return write(tmp_path / "image.jpg", Image.new("RGB", (3, 2)))


def palette(ids: np.ndarray) -> Image.Image:
    image = Image.fromarray(ids).convert("P")
    image.putdata(ids.ravel().tolist())
    image.putpalette([(7 * i) % 256 for i in range(768)])
    return image


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.bmp", "m.pgm", "m.gif"])
def test_grey_ids_are_kept(tmp_path, image, name):
    found = open_mask(write(tmp_path / name, IDS), image)
    assert found.dtype == np.uint16 and np.array_equal(found, IDS)


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.gif"])
def test_palettes_keep_their_indices(tmp_path, image, name):
    assert np.array_equal(open_mask(write(tmp_path / name, palette(IDS)), image), IDS)


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_sixteen_bits_are_kept(tmp_path, image, name):
    deep = IDS.astype(np.uint16) * 10_000
    assert np.array_equal(open_mask(write(tmp_path / name, deep), image), deep)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_spread(tmp_path, image, bits):
    """What PNG optimisers make of masks with few classes."""
    ids = IDS % 2**bits
    rows = [b"\0" + int("".join(f"{id:0{bits}b}" for id in row).ljust(16, "0"), 2).to_bytes(2) for row in ids.tolist()]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 3, 2, bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(row[: 1 + (3 * bits + 7) // 8] for row in rows))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert np.array_equal(open_mask(data, image), ids)


def test_void_ids_become_65535_also_where_they_would_not_fit(tmp_path, image):
    signed = IDS.astype(np.int32)
    signed[0, 0] = -1
    path = write(tmp_path / "m.tif", signed)
    assert open_mask(path, image, void=(-1, 5)).tolist() == [[VOID, 1, 2], [3, 4, VOID]]
    with pytest.raises(ValueError, match=r"the mask .*m\.tif has the id -1.*images\.void=\[-1\]"):
        open_mask(path, image)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_refused_with_the_remedy(tmp_path, image, mode):
    path = write(tmp_path / "m.png", Image.new(mode, (3, 2)))
    with pytest.raises(ValueError, match=rf"m\.png has mode {mode}: colours are not class ids.*grey PNG"):
        open_mask(path, image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ids", [IDS, IDS.astype(np.uint16) * 10_000, palette(IDS)], ids=["grey", "deep", "palette"])
def test_a_mask_of_the_stored_size_turns_with_its_image(tmp_path, orientation, ids):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    values = np.asarray(ids)
    pixels = np.repeat((values // max(1, values.max() // 5)).astype(np.uint8)[..., None] * 40, 3, axis=2)
    image = write(tmp_path / "image.png", pixels, exif=exif)
    found = open_mask(write(tmp_path / "m.png", ids), image)
    assert np.array_equal(found // max(1, values.max() // 5) * 40, np.asarray(open_rgb(image))[..., 0])


def test_a_mask_that_is_upright_already_stays(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    image = write(tmp_path / "image.png", Image.new("RGB", (3, 2)), exif=exif)
    upright = np.ascontiguousarray(IDS.T)
    assert np.array_equal(open_mask(write(tmp_path / "m.png", upright), image), upright)
    own = write(tmp_path / "own.png", IDS, exif=exif)
    assert np.array_equal(open_mask(own, image), np.rot90(IDS, -1)), "by its own orientation"


SCENE = np.array([[1, 2, 2], [3, 4, 4]], np.uint8)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
# how a camera held that way stores the scene: the inverse of what EXIF 2.3 says a viewer has to do
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.lzw.tif", "a.webp", "a.avif"])
@pytest.mark.parametrize("mask_name", ["m.png", "m.tif", "m.lzw.tif"])
def test_labels_lie_on_their_pixels_whatever_the_format(tmp_path, name, mask_name, orientation):
    """Masks as stored, as stored with their own tag, and upright where the size or a tag tells."""
    scene = np.kron(SCENE, np.ones((16, 16), np.uint8))
    stored = np.ascontiguousarray(STORED[orientation](scene))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation

    def options(file: str) -> dict:
        lossless = {"quality": 100} if file.endswith(("jpg", "avif")) else {"lossless": True}
        return {"compression": "tiff_lzw"} if "lzw" in file else {} if file.endswith((".tif", ".png")) else lossless

    pixels = COLOURS[stored]
    image = write(tmp_path / name, pixels, exif=exif, **options(name))
    shown = np.asarray(open_rgb(image)).astype(int)
    assert np.array_equal(np.abs(shown[:, :, None] - COLOURS).sum(-1).argmin(-1), scene)
    masks = {"stored": (stored, {}), "tagged": (stored, {"exif": exif})}
    if stored.shape != scene.shape:
        masks["upright"] = (scene, {})
    for kind, (ids, tag) in masks.items():
        mask = write(tmp_path / f"{kind}-{mask_name}", ids, **tag, **options(mask_name))
        assert np.array_equal(open_mask(mask, image), scene), kind


@pytest.mark.parametrize("size", [(2, 3), (6, 4), (1, 1)])
def test_another_size_names_both_files(tmp_path, image, size):
    path = write(tmp_path / "m.png", Image.new("L", size))
    with pytest.raises(ValueError, match=rf"m\.png is {size[0]} x {size[1]} .*image\.jpg is 3 x 2"):
        open_mask(path, image)


def test_a_broken_file_is_an_oserror_with_its_name(tmp_path, image):
    (tmp_path / "m.png").write_bytes(write(tmp_path / "whole.png", IDS).read_bytes()[:50])
    with pytest.raises(OSError, match=r"m\.png"):
        open_mask(tmp_path / "m.png", image)
    with pytest.raises(OSError, match=r"gone\.jpg"):
        open_mask(tmp_path / "whole.png", tmp_path / "gone.jpg")


def test_bytes_will_do(tmp_path, image):
    buffer = io.BytesIO()
    Image.fromarray(IDS).save(buffer, "PNG")
    assert np.array_equal(open_mask(buffer.getvalue(), image.read_bytes()), IDS)
    with pytest.raises(OSError, match="row 3"):
        open_mask(b"nothing", image.read_bytes(), names=("row 3", "row 3"))
