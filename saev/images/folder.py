"""A folder of images: in ImageFolder layout (the parent folder is the class) or flat."""

from dataclasses import dataclass
from pathlib import Path

from saev.images.files import FileImages, Listing, no_labels
from saev.images.tables import Row
from saev.images.walking import EXTENSIONS, find_files


@dataclass(kw_only=True)
class FolderImages(FileImages):
    """Every image file below `root` that matches `pattern` (a glob; follows links, leaves out hidden files)."""

    pattern: str = "**/*"
    name: str = ""
    """Empty for the folder's name."""

    def __post_init__(self):
        self.name = self.name or (Path(self.root).resolve().name if self.root else "folder")

    @property
    def kind(self) -> str:
        return "folder"

    def listing(self) -> Listing:
        paths = find_images(self.folder, self.pattern)
        return Listing(paths, class_folder if any("/" in path for path in paths) else no_labels)


def find_images(root: Path, pattern: str) -> list[str]:
    """The images below root that match; ValueError if there are none."""
    paths = find_files(root, pattern)
    if not paths:
        raise ValueError(
            f"images.root={root} has no images that match images.pattern={pattern} "
            f"(extensions {' '.join(sorted(EXTENSIONS))}): give another folder or pattern."
        )
    return paths


def class_folder(path: str) -> Row:
    """The parent folder's name as the column `class`."""
    return {"class": path.rpartition("/")[0].rpartition("/")[2]}
