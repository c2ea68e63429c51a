import shutil

import pytest
from PIL import Image

from saev.images import FolderImages


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


def test_pattern_selects(tmp_path):
    for name in ["train/a.png", "val/b.png"]:
        picture(tmp_path / name)
    assert FolderImages(root=str(tmp_path), pattern="val/*").paths() == ["val/b.png"]


def test_digest_tells_contents_and_not_places(tmp_path):
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
