"""Common parts of image sets with masks: the options of patch labels, and pairing images with masks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from saev.images.files import FileImages
from saev.images.masks import MASK_EXTENSIONS
from saev.images.patch_labels import Labelling, as_ids
from saev.images.tables import shortened
from saev.images.walking import find_files


@dataclass(kw_only=True)
class MaskOptions:
    """How masks become patch labels; saev.images.Labelling explains the options."""

    method: str = "majority"
    void: Sequence[int] | int = ()
    background: Sequence[int] | int = ()

    def labelling_of(self, classes: Mapping[int, str]) -> Labelling:
        """The options with the names of the classes; ValueError for an unknown option."""
        return Labelling(self.method, as_ids("void", self.void), as_ids("background", self.background), classes)


@dataclass(kw_only=True)
class MaskedImages(MaskOptions, FileImages):
    """Image files with a mask each: a class id per pixel."""

    require_masks: bool = True
    """False: all patches of an image without a mask are void, instead of an error."""

    @property
    def labelling(self) -> Labelling | None:
        return self._labelling

    @cached_property
    def _labelling(self) -> Labelling | None:
        labelling = self.labelling_of(self._listing.classes)
        return labelling if self._listing.masks else None


def masks_below(root: Path, folder: str) -> dict[str, str]:
    """{path below root/folder without its extension: path below root} of every mask file there."""
    masks: dict[str, str] = {}
    for path in find_files(root / folder, extensions=MASK_EXTENSIONS, once=False):
        stem = path.rpartition(".")[0]
        if stem in masks:
            raise ValueError(
                f"images.root={root}: {masks[stem]} and {folder}/{path} are two masks of one image; keep one."
            )
        masks[stem] = f"{folder}/{path}"
    return masks


def check_masks(root: Path, paths: Iterable[str], masks: Mapping[str, str], folder: str, required: bool) -> None:
    """ValueError where images lack masks, unless `required` is False and at least one has a mask."""
    missing = [path for path in paths if path not in masks]
    if not missing or (masks and not required):
        return
    remedy = (
        "add it, move the image away, or record such images with void patches: images.require_masks=false."
        if masks
        else "or record without masks: images=folder."
    )
    raise ValueError(
        f"images.root={root}: no mask in {folder}/ for {shortened(missing)}. A mask has its image's name and one of the "
        f"extensions {' '.join(sorted(MASK_EXTENSIONS))}; {remedy}"
    )
