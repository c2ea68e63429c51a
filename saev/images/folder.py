"""A folder of images: ImageFolder layout (the parent folder is the class) or flat."""

import glob
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from saev.images.opening import open_rgb
from saev.images.source import ImageSource

# fmt: off
EXTENSIONS = {
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
}
# fmt: on


@dataclass(kw_only=True)
class FolderImages(ImageSource):
    """Every image file under `root` that `pattern` matches (glob, `**` any depth, links followed, hidden files not)."""

    root: str | None
    pattern: str = "**/*"
    name: str = ""
    """Defaults to the folder's own name."""

    def __post_init__(self):
        self.name = self.name or (Path(self.root).resolve().name if self.root else "folder")

    @property
    def kind(self) -> str:
        return "folder"

    def check(self) -> None:
        if not self.root:
            raise ValueError("images.root is not set: say where your images are, images.root=/path/to/photos.")
        if not Path(self.root).is_dir():
            raise ValueError(f"images.root={self.root} is not a folder: give your images' folder, images.root=/path.")
        if not self.paths():
            raise ValueError(
                f"images.root={self.root} holds no images that match images.pattern={self.pattern} "
                f"(looked for {' '.join(sorted(EXTENSIONS))}): give another folder or pattern."
            )

    def paths(self) -> list[str]:
        return self._paths

    @cached_property
    def _paths(self) -> list[str]:
        if not self.root:
            return []
        found = glob.iglob(self.pattern, root_dir=self.root, recursive=True)
        return sorted(Path(p).as_posix() for p in found if os.path.splitext(p)[1].lower() in EXTENSIONS)

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        total = hashlib.sha256()
        for path in self.paths():
            total.update(f"{path}\0{self.file(path).stat().st_size}\n".encode(errors="surrogateescape"))
        return total.hexdigest()

    def file(self, path: str) -> Path:
        """Where the image with this key lies."""
        return Path(self.root or "") / path

    def open(self, index: int) -> Image.Image:
        return open_rgb(self.file(self.paths()[index]))

    @cached_property
    def _has_classes(self) -> bool:
        return any("/" in path for path in self.paths())

    def labels(self, index: int) -> dict[str, str | int]:
        return {"class": Path(self.paths()[index]).parent.name} if self._has_classes else {}

    def credits(self) -> str:
        return ""
