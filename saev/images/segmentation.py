"""A segmentation folder: images and masks of the same names in two trees, optionally with tables of labels.

root/images/[split/]a.jpg    root/annotations/[split/]a.png    root/labels.csv (key, column, ...)
"""

from dataclasses import dataclass, replace
from pathlib import Path

from saev.images.classes import read_classes
from saev.images.files import Listing, choose, require
from saev.images.masked import MaskedImages, check_masks, masks_below
from saev.images.tables import Row, label_columns, match, read_table, shortened
from saev.images.walking import find_files

LABELS = ("labels.csv", "labels.tsv", "labels.txt", "image_labels.txt")
LAYOUT = (
    "give a folder with images/[split/]a.jpg and annotations/[split/]a.png, images.root=/path; masks in another of its "
    "folders: images.masks=NAME."
)


@dataclass(kw_only=True)
class SegmentationFolder(MaskedImages):
    """Images with masks in ADE20K's layout, and label columns from `labels_file` (null: the first of LABELS that exists)."""

    split: str = "all"
    """A sub-folder of images/, or all."""
    masks: str = "annotations"
    """Folder of the masks below root."""
    labels_file: str | None = None
    classes: str | None = None
    """File below root that names the ids: .json, .csv, or text with a line `id name` per class."""
    name: str = ""

    def __post_init__(self):
        self.name = self.name or (Path(self.root).resolve().name if self.root else "segmentation")

    @property
    def kind(self) -> str:
        return "segmentation"

    def listing(self) -> Listing:
        files = [self.labels_file] if self.labels_file else [f for f in LABELS if (self.folder / f).is_file()][:1]
        tables = {file: "class" for file in files}
        listing = segmentation(self, self.split, tables, masks=self.masks)
        return replace(listing, classes=read_classes(self.folder / self.classes)) if self.classes else listing


def segmentation(
    images: MaskedImages, split: str, tables: dict[str, str], layout: str = LAYOUT, masks: str = "annotations"
) -> Listing:
    """The listing of a segmentation folder; `tables`: files below the root, with the column name of those without a header."""
    root = images.folder
    require(root, ["images", masks, *tables], layout)
    all_paths = [f"images/{path}" for path in find_files(root / "images")]
    if split != "all":
        choose("split", split, ["all", *sorted({split_of(path) for path in all_paths} - {""})])
    paths = [path for path in all_paths if split in ("all", split_of(path))]
    if not paths:
        raise ValueError(f"images.root={root} has no images below images/: {layout}")
    by_stem = masks_below(root, masks)
    stems = {path: path.removeprefix("images/").rpartition(".")[0] for path in paths}
    mask_of = {path: by_stem[stem] for path, stem in stems.items() if stem in by_stem}
    check_masks(root, paths, mask_of, masks, images.require_masks)

    rows: dict[str, dict[str, str | int]] = {path: {} for path in paths}
    if any(split_of(path) for path in paths):
        rows = {path: {"split": split_of(path)} for path in paths}
    for file, column in tables.items():
        for path, row in joined(root / file, column, all_paths, paths).items():
            rows[path] |= row
    return Listing(paths, rows.__getitem__, mask_of, from_tables=bool(tables))


def split_of(path: str) -> str:
    """The folder directly below images/ that contains the image; "" for an image in images/ itself."""
    parts = path.split("/")
    return parts[1] if len(parts) > 2 else ""


def joined(file: Path, column: str, all_paths: list[str], paths: list[str]) -> dict[str, Row]:
    """The label columns of `paths` from a table whose rows may name any of `all_paths`, or images that do not exist."""
    table = read_table(file, column=column)
    by_path = {path: table[key] for key, path in match(table, all_paths, file).items()}
    missing = [path for path in paths if path not in by_path]
    if missing:
        raise ValueError(
            f"{file} has no row for {shortened(missing)}: add a row with the image's name, stem or path as its key, or give another "
            "table, images.labels_file=NAME."
        )
    return label_columns({path: by_path[path] for path in paths})
