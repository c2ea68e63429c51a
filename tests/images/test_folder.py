import glob
import os
import shutil

import pytest
from PIL import Image

from saev.images import FolderImages
from saev.images.walking import find_files


def picture(path, colour="red", size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_class_folders_give_sorted_keys_and_labels(tmp_path):
    for name in ["wren/b.png", "wren/a.JPG", "owl/z.webp"]:
        picture(tmp_path / name)
    (tmp_path / "owl" / "notes.txt").write_text("not a picture")
    (tmp_path / "owl" / ".hidden.png").write_bytes(b"not one either")
    images = FolderImages(root=str(tmp_path))
    images.check()
    assert images.paths() == ["owl/z.webp", "wren/a.JPG", "wren/b.png"]
    assert [images.labels(i)["class"] for i in range(3)] == ["owl", "wren", "wren"]
    assert images.open(1).size == (6, 4)
    assert (images.kind, images.name, images.credits()) == ("folder", tmp_path.name, "")


def test_flat_folders_have_no_labels(tmp_path):
    picture(tmp_path / "a.png")
    assert FolderImages(root=str(tmp_path)).labels(0) == {}


def test_linked_class_folders_are_followed(tmp_path):
    picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "owl").symlink_to(tmp_path / "elsewhere")
    assert FolderImages(root=str(tmp_path / "root")).paths() == ["owl/a.png"]


@pytest.fixture
def links(tmp_path):
    """Three pictures, a link to the parent folder, to a folder and a file beside them, out of the tree, to nothing, to itself."""
    for name in ["root/cat/1.png", "root/dog/2.png", "elsewhere/3.png"]:
        picture(tmp_path / name)
    for name, target in [
        ("cat/all", ".."), ("cat/dogs", "../dog"), ("dog/1.png", "../cat/1.png"), ("a.png", "cat/1.png"), ("out", "../elsewhere"),
        ("out2", "../elsewhere"), ("3.png", "../elsewhere/3.png"), ("gone.png", "nowhere.png"), ("loop.png", "loop.png"),
    ]:  # fmt: skip
        (tmp_path / "root" / name).symlink_to(target)
    return tmp_path / "root"


def test_each_file_is_listed_once_whatever_links_to_it(links, caplog):
    paths = find_files(links)
    assert "left out 6 links to files that are listed already: " in caplog.text
    assert paths == ["cat/1.png", "dog/2.png", "gone.png", "loop.png", "out/3.png"]


def test_masks_may_be_links_to_one_file(links):
    (links / "cat/all").unlink()
    paths = find_files(links, once=False)
    assert {"cat/1.png", "a.png", "dog/1.png", "cat/dogs/2.png", "out/3.png", "out2/3.png", "3.png"} < {*paths}


def test_links_to_nothing_are_unreadable_images(links):
    images = FolderImages(root=str(links))
    images.check()
    assert len(images.digest()) == 64
    for name in ["gone.png", "loop.png"]:
        with pytest.raises(OSError, match=name):
            images.open(images.paths().index(name))


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"new\nline.png", b"caf\xe9/a.png"])
def test_names_that_are_not_utf8_are_named_before_anything_is_recorded(tmp_path, name):
    picture(tmp_path / "a.png")
    target = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(tmp_path / "a.png", target)
    with pytest.raises(
        ValueError, match=r"images\.root=.* names the file .*(caf.xe9|new).*not UTF-8: rename it.*convmv"
    ):
        FolderImages(root=str(tmp_path)).check()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*", ["a.png", "x/b.png", "x/y/c.png"]),
        ("**", ["a.png", "x/b.png", "x/y/c.png"]),
        ("*", ["a.png"]),
        ("*/*", ["x/b.png"]),
        ("x/**/*", ["x/b.png", "x/y/c.png"]),
        ("**/y/*", ["x/y/c.png"]),
        ("**/[bc].png", ["x/b.png", "x/y/c.png"]),
        ("?/b*", ["x/b.png"]),
    ],
)
def test_patterns_are_globs(tmp_path, pattern, expected):
    for name in ["a.png", "x/b.png", "x/y/c.png", ".hidden/d.png"]:
        picture(tmp_path / "lab [x]" / name)
    assert find_files(tmp_path / "lab [x]", pattern) == expected
    assert expected == sorted(
        p for p in glob.glob(pattern, root_dir=tmp_path / "lab [x]", recursive=True) if ".png" in p
    )


def test_pattern_selects(tmp_path):
    for name in ["train/a.png", "val/b.png"]:
        picture(tmp_path / name)
    assert FolderImages(root=str(tmp_path), pattern="val/*").paths() == ["val/b.png"]


def test_the_digest_depends_on_contents_and_not_paths(tmp_path):
    for root in ["one", "two"]:
        picture(tmp_path / root / "owl" / "a.png")
    one, two = (FolderImages(root=str(tmp_path / root)).digest() for root in ["one", "two"])
    assert one == two and len(one) == 64
    picture(tmp_path / "two" / "owl" / "a.png", size=(60, 40))
    assert FolderImages(root=str(tmp_path / "two")).digest() != one, "another size in bytes"
    shutil.move(tmp_path / "one" / "owl" / "a.png", tmp_path / "one" / "owl" / "b.png")
    assert FolderImages(root=str(tmp_path / "one")).digest() != one, "another name"


@pytest.mark.parametrize(
    ("root", "says"), [(None, "is not set"), ("missing", "is not a folder"), ("empty", "has no images")]
)
def test_no_images_names_the_key_and_the_remedy(tmp_path, root, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("no pictures")
    images = FolderImages(root=root and str(tmp_path / root))
    with pytest.raises(ValueError, match=rf"images\.root.*{says}"):
        images.check()
    with pytest.raises(ValueError, match=r"images\.root=/path|another folder"):
        images.check()
