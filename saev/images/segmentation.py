"""A segmentation folder: images and masks of the same names in two trees, and perhaps tables of labels beside them.

root/images/[split/]a.jpg    root/annotations/[split/]a.png    root/labels.csv (key, column, ...)
"""

from dataclasses import dataclass, replace
from pathlib import Path

from saev.images.classes import read_classes
from saev.images.files import Listing, choose, find, require
from saev.images.masked import MaskedImages, check_masks, masks_below
from saev.images.tables import Row, label_columns, match, read_table, some

LABELS = ("labels.csv", "labels.tsv", "labels.txt", "image_labels.txt")
LAYOUT = "give a folder with images/[split/]a.jpg and annotations/[split/]a.png, images.root=/path."


@dataclass(kw_only=True)
class SegmentationFolder(MaskedImages):
    """Images with masks in ADE20K's layout, and label columns out of `labels_file` (the first of LABELS that is there if null)."""

    split: str = "all"
    """A sub-folder of images/, or all."""
    labels_file: str | None = None
    classes: str | None = None
    """File below root that names the ids: .json, .csv, or text with a line `id name` for each."""
    name: str = ""

    def __post_init__(self):
        self.name = self.name or (Path(self.root).resolve().name if self.root else "segmentation")

    @property
    def kind(self) -> str:
        return "segmentation"

    def listing(self) -> Listing:
        files = [self.labels_file] if self.labels_file else [f for f in LABELS if (self.folder / f).is_file()][:1]
        tables = {file: "class" for file in files}
        found = segmentation(self, self.split, tables)
        return replace(found, classes=read_classes(self.folder / self.classes)) if self.classes else found


def segmentation(images: MaskedImages, split: str, tables: dict[str, str], layout: str = LAYOUT) -> Listing:
    """The listing of a segmentation folder; `tables` are files below the root, with the column of those without one."""
    root = images.folder
    require(root, ["images", "annotations", *tables], layout)
    everything = [f"images/{path}" for path in find(root / "images")]
    if split != "all":
        choose("split", split, ["all", *sorted({split_of(path) for path in everything} - {""})])
    paths = [path for path in everything if split in ("all", split_of(path))]
    if not paths:
        raise ValueError(f"images.root={root} holds no images below images/: {layout}")
    found = masks_below(root, "annotations")
    stems = {path: path.removeprefix("images/").rpartition(".")[0] for path in paths}
    masks = {path: found[stem] for path, stem in stems.items() if stem in found}
    check_masks(root, paths, masks, "annotations", images.require_masks)

    rows: dict[str, dict[str, str | int]] = {path: {} for path in paths}
    if any(split_of(path) for path in paths):
        rows = {path: {"split": split_of(path)} for path in paths}
    for file, column in tables.items():
        for path, row in joined(root / file, column, everything, paths).items():
            rows[path] |= row
    return Listing(paths, rows.__getitem__, masks, from_tables=bool(tables))


def split_of(path: str) -> str:
    """The folder directly below images/ that holds the image; "" where it lies in images/ itself."""
    parts = path.split("/")
    return parts[1] if len(parts) > 2 else ""


def joined(file: Path, column: str, everything: list[str], paths: list[str]) -> dict[str, Row]:
    """The label columns of `paths` out of a table that may speak of `everything`, or of images that are not here."""
    table = read_table(file, column=column)
    by_path = {path: table[key] for key, path in match(table, everything, file).items()}
    missing = [path for path in paths if path not in by_path]
    if missing:
        raise ValueError(
            f"{file} has no row for {some(missing)}: add a row for each image, keyed by its name, stem or path, or "
            "give another table, images.labels_file=NAME."
        )
    return label_columns({path: by_path[path] for path in paths})
