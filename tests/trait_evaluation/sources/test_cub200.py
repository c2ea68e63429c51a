"""CUB's attributes on generated trees in both published layouts."""

import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from trait_evaluation.sources.recorded import recorded

from saev.trait_evaluation.sources import Cub200
from saev.trait_evaluation.sources.cub200 import read_labels

PUBLISHED = ROOT.parent / "shared" / "data" / "annotations" / "cub_attributes.txt"
COLOURS = ["blue", "brown", "grey", "buff"]
NAMES = PUBLISHED.read_text().split()[1::2] if PUBLISHED.is_file() else [f"has_bill::{c}" for c in COLOURS]
BIRDS = ["001.Black_footed_Albatross"] * 3 + ["002.Laysan_Albatross"] * 2
PATHS = [f"{kind}/{kind[4:]}_{n:04d}.jpg" for n, kind in enumerate(BIRDS)]
rng = np.random.default_rng(0)
PRESENT = rng.integers(0, 2, (5, len(NAMES)))
CERTAINTY = rng.integers(1, 5, (5, len(NAMES)))
ALL = np.arange(5)


def lines() -> list[str]:
    """As published, some with an extra field; in another order, which does not matter."""
    cells = [(i, a) for a in range(len(NAMES)) for i in (4, 2, 0, 1, 3)]
    return [f"{i + 1} {a + 1} {PRESENT[i, a]} {CERTAINTY[i, a]} {'0 ' * ((i + a) % 3 == 0)}27.708" for i, a in cells]


def archive(above: Path, names_in: str = ".", labels_in: str = "CUB_200_2011/attributes", text: str = "") -> Path:
    root = above / "CUB_200_2011"
    for folder in (names_in, labels_in, "CUB_200_2011"):
        (above / folder).mkdir(parents=True, exist_ok=True)
    (root / "images.txt").write_text("".join(f"{n} {path}\n" for n, path in enumerate(PATHS, 1)))
    (above / names_in / "attributes.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(NAMES, 1)))
    (above / labels_in / "image_attribute_labels.txt").write_text(text or "\n".join(lines()) + "\n")
    return root


def store_of(root: Path, with_id: bool = True, order: tuple[int, ...] = (0, 1, 2, 3, 4)):
    rows = [{"path": f"images/{PATHS[i]}", "class": BIRDS[i]} | ({"image_id": i + 1} if with_id else {}) for i in order]
    return recorded(root, rows)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("cub") / "birds")


@pytest.mark.parametrize("names_in", [".", "CUB_200_2011/attributes"])
@pytest.mark.parametrize("labels_in", ["CUB_200_2011/attributes", "CUB_200_2011"])
@pytest.mark.parametrize("given", [".", "CUB_200_2011"])
def test_both_published_layouts(store, tmp_path, names_in, labels_in, given):
    archive(tmp_path, names_in, labels_in)
    table = Cub200(str(tmp_path / given)).table(store, ALL)
    assert table.names == tuple(NAMES)
    assert (table.values == np.where(CERTAINTY >= 3, PRESENT, -1)).all()


def test_label_modes(store, tmp_path):
    root = str(archive(tmp_path))
    seen = {mode: Cub200(root, mode).table(store, ALL).values for mode in ("masked", "saev", "present", "class")}
    assert (seen["saev"] == PRESENT * (CERTAINTY >= 3)).all() and (seen["present"] == PRESENT).all()
    first, second = PRESENT[:3].sum(0) >= 2, PRESENT[3:].sum(0) == 2  # half of the images is no majority
    assert (seen["class"] == np.array([first] * 3 + [second] * 2)).all()
    with pytest.raises(ValueError, match=r"traits\.labels=all: choose masked, saev, present or class"):
        Cub200(root, "all")


def test_images_are_joined_by_their_number_or_their_path(store, tmp_path):
    root = str(archive(tmp_path / "a"))
    order = (3, 0, 4)
    expected = Cub200(root, "present").table(store, np.array([4, 3])).values
    for with_id in (True, False):
        part = store_of(tmp_path / f"part{with_id}", with_id, order)
        assert (Cub200(root, "present").table(part, np.array([2, 0])).values == expected).all()
    tree = recorded(tmp_path / "tree", [{"path": f"train/Laysan Albatross/{Path(PATHS[3]).stem}.png"}])
    assert (Cub200(root, "present").table(tree, np.array([0])).values == PRESENT[3]).all()
    with pytest.raises(ValueError, match=r"1 of the 1 images of else are not in images\.txt \(x\.jpg\)"):
        Cub200(root).table(recorded(tmp_path / "else", [{"path": "x.jpg"}]), np.array([0]))
    wrong = recorded(tmp_path / "wrong", [{"path": PATHS[1], "image_id": 5}])
    with pytest.raises(ValueError, match=r"wrong says image_id=5 of .*, images\.txt says 2"):
        Cub200(root).table(wrong, np.array([0]))


def changed(line: int, text: str | None) -> str:
    rows = lines()
    rows[line : line + 1] = [] if text is None else [text]
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(2, None), r"image 1 has attribute 1 0 times instead of once \(1 such pairs, {n_less} lines for 5 images"),
        (changed(2, "2 1 0 3 5"), r"image 1 has attribute 1 0 times instead of once \(2 such pairs"),
        (changed(0, "5 1 0 3 5\n5 1 0 3 5"), r"image 5 has attribute 1 2 times"),
        (changed(3, "2 1 0"), r"line 4: its first four fields must be the numbers image_id, attribute_id"),
        (changed(3, "2 1 0 x 5"), r"line 4: its first four fields"),
        (changed(3, "2 1 27.7 3 5"), r"line 4: its first four fields"),
        (changed(3, "2 1 0 27 5"), r"line 4: certainty_id=27 is not 1 to 4; .*columns look shifted"),
        (changed(3, "2 1 3 4 5"), r"line 4: is_present=3 is not 0 to 1; .*columns look shifted"),
        (changed(3, "9 1 0 3 5"), r"line 4: image_id=9 is not in images\.txt"),
        (changed(3, "2 400 0 3 5"), r"line 4: attribute_id=400 is not in attributes\.txt"),
        ("1 1 1 4\n2 1 1 4\n", r"is_present is 1 in all 2 lines; .*columns look shifted"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(store, tmp_path, text, message):
    root = archive(tmp_path, text=text)
    with pytest.raises(ValueError, match=message.replace("{n_less}", str(5 * len(NAMES) - 1))):
        Cub200(str(root)).table(store, ALL)


def test_windows_line_ends_and_blank_lines(store, tmp_path):
    root = archive(tmp_path, text="\r\n".join([*lines(), "", ""]))
    assert (Cub200(str(root), "present").table(store, ALL).values == PRESENT).all()


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"traits\.root is not set"):
        Cub200().check()
    with pytest.raises(ValueError, match=r"traits\.root=.* has no images\.txt: unpack CUB_200_2011\.tgz"):
        Cub200(str(tmp_path)).check()
    root = archive(tmp_path)
    Cub200(str(root)).check()
    (tmp_path / "attributes.txt").unlink()
    with pytest.raises(ValueError, match=r"has no attributes\.txt: .*beside it"):
        Cub200(str(root)).check()


@pytest.mark.slow
def test_the_size_of_the_published_file_takes_seconds(tmp_path):
    images, attributes = 11788, 312
    present = np.random.default_rng(0).random((images, attributes)) < 0.1
    with open(tmp_path / "labels.txt", "w") as file:
        for i in range(images):
            file.writelines(f"{i + 1} {a + 1} {present[i, a]:d} {1 + (i + a) % 4} 27.7\n" for a in range(attributes))
    begin = time.perf_counter()
    read, certainty = read_labels(tmp_path / "labels.txt", [*range(1, images + 1)], [*range(1, attributes + 1)])
    assert time.perf_counter() - begin < 20
    assert (read == present).all() and (certainty[:2, :4] == [[1, 2, 3, 4], [2, 3, 4, 1]]).all()
