"""Every kind of picture file comes out upright, RGB and with the values that a viewer shows."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from saev.images.opening import ORIENTATION_TAG, open_rgb

GREY = np.linspace(0, 255, 6 * 8).reshape(6, 8).astype(np.uint8)


def save(tmp_path, image: Image.Image, name: str, **options) -> np.ndarray:
    image.save(tmp_path / name, **options)
    opened = open_rgb(tmp_path / name)
    assert opened.mode == "RGB"
    return np.asarray(opened)


def test_rgb_is_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(save(tmp_path, Image.fromarray(pixels), "a.png"), pixels)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_grey_is_repeated(tmp_path, name):
    assert np.array_equal(save(tmp_path, Image.fromarray(GREY), name), np.repeat(GREY[..., None], 3, 2))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_keep_their_upper_byte(tmp_path, name):
    deep = GREY.astype(np.uint16) * 256 + 17
    assert np.array_equal(save(tmp_path, Image.fromarray(deep), name), np.repeat(GREY[..., None], 3, 2))


def test_floats_in_the_unit_interval_are_scaled(tmp_path):
    found = save(tmp_path, Image.fromarray((GREY / 255).astype(np.float32)), "a.tif")
    assert np.abs(found[..., 0].astype(int) - GREY).max() <= 1


RAMP = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (4, 1))


@pytest.mark.parametrize(
    ("values", "dtype", "levels"),
    [
        (RAMP, "f4", "mode F read as 0 (black) to 1"),
        (np.where(RAMP == 0.6, np.inf, RAMP), "f4", "0 (black) to 1"),
        (RAMP * 65535, "f4", "0 (black) to 65535"),
        (RAMP * 3 - 1, "f4", "-1 (black) to 2"),
        (RAMP * 1e7, "f4", "0 (black) to 1e+07"),
        (RAMP * 255, "i4", "mode I read as 0 (black) to 255"),
        (RAMP * 4000 - 1000, "i4", "-1000 (black) to 3000"),
        (RAMP * 255, "u2", "mode I;16 read as 0 (black) to 255"),
        (RAMP * 4095, "u2", "0 (black) to 4095"),
        (RAMP * 65535, "u2", "0 (black) to 65535"),
        (RAMP * (2**20 - 1), "i4", "0 (black) to 1.04858e+06"),
    ],
)
def test_a_ramp_stays_a_ramp_whatever_its_type(tmp_path, values, dtype, levels):
    kept = np.isfinite(values)
    Image.fromarray(np.where(kept | (dtype == "f4"), values, 0).astype(dtype)).save(tmp_path / "a.tif")
    opened = open_rgb(tmp_path / "a.tif")
    assert np.abs(np.asarray(opened)[..., 0].astype(float) - RAMP * 255)[kept].max() <= 1
    assert levels in opened.info["levels"]


def test_an_overshoot_of_resizing_is_cut_off(tmp_path):
    found = save(tmp_path, Image.fromarray(RAMP * 1.04 - 0.02), "a.tif")
    assert np.abs(found[..., 0].astype(float) - ((RAMP * 1.04 - 0.02) * 255).clip(0, 255)).max() <= 1


def test_colours_of_twelve_bits_are_refused(tmp_path):
    """PIL reads only their upper byte: the image would be black."""
    deep = np.repeat((RAMP * 4095).astype(">u2")[..., None], 3, axis=2)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for factor in (1, 16):
        rows = b"".join(b"\0" + (row * factor).astype(">u2").tobytes() for row in deep)
        head = struct.pack(">IIBBBBB", 256, 4, 16, 2, 0, 0, 0)
        data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (tmp_path / f"{factor}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert np.abs(np.asarray(open_rgb(tmp_path / "16.png"))[..., 0] - RAMP * 255).max() <= 1
    with pytest.raises(OSError, match=r"1\.png: .*16-bit colours use 12 bits or fewer.*store it with 8 bits"):
        open_rgb(tmp_path / "1.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(tmp_path, mode):
    image = Image.new(mode, (4, 2), (0,) * len(mode))  # black, wholly transparent
    image.paste((255,) * len(mode) if mode == "LA" else (255, 0, 0, 255), (2, 0, 4, 2))
    found = save(tmp_path, image, "a.png")
    assert (found[:, :2] == 255).all()
    assert (found[:, 2:] == (255 if mode == "LA" else (255, 0, 0))).all()


def test_transparent_palette_shows_white(tmp_path):
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(1, (2, 0, 4, 2))
    found = save(tmp_path, image, "a.png", transparency=0)
    assert (found[:, :2] == 255).all() and (found[:, 2:] == (40, 50, 60)).all()


def test_cmyk_has_the_colours_of_a_viewer(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 30, 60))
    found = save(tmp_path, image.convert("CMYK"), "a.jpg", quality=100)
    assert np.abs(found.astype(int) - (200, 30, 60)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 256, (3, 5, 3), dtype=np.uint8))
    # how a camera held that way stores the scene: the inverse of what EXIF 2.3 says a viewer has to do
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    found = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "a.png", exif=exif)
    assert np.array_equal(found, np.asarray(upright))


@pytest.mark.parametrize("size", [(300, 1), (1, 300), (1, 1)])
def test_one_pixel_high_or_wide(tmp_path, size):
    assert save(tmp_path, Image.new("RGB", size, "red"), "a.png").shape == (size[1], size[0], 3)


def test_broken_files_raise_oserror_with_their_name(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    contents = {
        "empty.jpg": b"",
        "text.png": b"not a picture",
        "cut.jpg": whole[: len(whole) // 2],
        "head.jpg": whole[:20],
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(OSError, match=name):
            open_rgb(tmp_path / name)


def test_a_flipped_byte_in_a_png_is_noticed(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(OSError, match=r"a\.png"):
        open_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "P", "PA", "LAB", "YCbCr", "I;16B"])
def test_rarer_modes_come_out_as_rgb(tmp_path, mode):
    name = "a.jpg" if mode == "YCbCr" else "a.tif"
    image = Image.fromarray(GREY)
    if mode == "I;16B":
        image = Image.frombytes(mode, (8, 6), (GREY.astype(np.uint16) * 256).astype(">u2").tobytes())
    elif mode in ("PA", "LAB"):
        image = Image.new(mode, (8, 6))
    else:
        image = image.convert(mode)
    found = save(tmp_path, image, name)
    assert found.shape == (6, 8, 3)
    if mode == "I;16B":
        assert np.array_equal(found[..., 0], GREY)


def test_sixteen_bits_turn_too(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    found = save(tmp_path, Image.fromarray(GREY.astype(np.uint16) * 256), "a.png", exif=exif)
    assert np.array_equal(found[..., 0], np.rot90(GREY, -1))


def test_an_orientation_that_does_not_exist_is_none(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 17
    assert np.array_equal(save(tmp_path, Image.fromarray(GREY), "a.png", exif=exif)[..., 0], GREY)


def test_bytes_open_like_files(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert np.array_equal(np.asarray(open_rgb(data)), np.asarray(open_rgb(tmp_path / "a.png")))
    with pytest.raises(OSError, match="row 7"):
        open_rgb(data[:40], "row 7")
    with pytest.raises(OSError, match="an image of 40 bytes"):
        open_rgb(data[:40])


def test_what_is_no_file_raises_oserror_with_its_name(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    for name in ["folder.jpg", "gone.jpg"]:
        with pytest.raises(OSError, match=name):
            open_rgb(tmp_path / name)


def test_broken_files_do_not_poison_the_good_ones_beside_them(tmp_path):
    """Read by many threads, over and over: a file is broken or whole whatever was read before it."""
    whole = {}
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        whole[tmp_path / f"{number}.png"] = pixels
    data = (tmp_path / "0.png").read_bytes()
    broken = [tmp_path / f"broken{at}.png" for at in range(0, len(data) - 12, len(data) // 5)]
    for path, at in zip(broken, range(0, len(data) - 12, len(data) // 5), strict=True):
        path.write_bytes(data[:at])

    def read(path):
        try:
            return np.asarray(open_rgb(path))
        except OSError as error:
            assert path.name in str(error)
            return None

    files = [*whole, *broken] * 5
    with ThreadPoolExecutor(8) as threads:
        for path, found in zip(files, threads.map(read, files), strict=True):
            assert found is None if path in broken else np.array_equal(found, whole[path])
