"""Fish-Vista in the layout of its repository (https://huggingface.co/datasets/imageomics/fish-vista).

root/Images/[chunk_n/]*.jpg    root/{segmentation,classification,identification}_{split}.csv (filename, ...)
root/segmentation_masks/images/*.png    root/segmentation_masks/seg_id_trait_map.json
"""

from collections.abc import Sequence
from dataclasses import dataclass

from saev.images.classes import read_classes
from saev.images.files import Listing, choose, leave_out, require
from saev.images.masked import MaskedImages, check_masks, masks_below
from saev.images.tables import Row, label_columns, match, read_table, shortened
from saev.images.walking import find_files

TASKS = ("segmentation", "classification", "identification")
ALL_SPLITS = "data"  # segmentation_data.csv repeats the three splits
MASKS, TRAITS = "segmentation_masks/images", "segmentation_masks/seg_id_trait_map.json"
LAYOUT = "clone the data set imageomics/fish-vista (with git-lfs) and give its folder, images.root=/data/fish-vista."


@dataclass(kw_only=True)
class FishVista(MaskedImages):
    """Fish-Vista: the images of a task's csv, its columns and `split` as labels; trait masks for segmentation."""

    task: str = "segmentation"
    split: str = "all"
    background: Sequence[int] | int = (0,)
    unmatched: str = "stop"
    """Images of the csv without a file: stop with an error, or drop them."""
    name: str = "fishvista"

    @property
    def kind(self) -> str:
        return "fishvista"

    def listing(self) -> Listing:
        choose("task", self.task, TASKS)
        with_masks = self.task == "segmentation"
        require(self.folder, ["Images", *([MASKS] if with_masks else [])], LAYOUT)
        rows = self._rows()
        paths = sorted(rows)
        if not with_masks:
            return Listing(paths, rows.__getitem__, from_tables=True)
        by_stem = masks_below(self.folder, MASKS)
        stems = {path: path.rpartition("/")[2].rpartition(".")[0] for path in paths}
        masks = {path: by_stem[stem] for path, stem in stems.items() if stem in by_stem}
        check_masks(self.folder, paths, masks, MASKS, self.require_masks)
        traits = self.folder / TRAITS
        classes = read_classes(traits) if traits.is_file() else {}
        return Listing(paths, rows.__getitem__, masks, classes, from_tables=True)

    def _rows(self) -> dict[str, Row]:
        """Label columns by image, from the task's csv files."""
        tables = {path.stem.split("_", 1)[1]: path for path in sorted(self.folder.glob(f"{self.task}_*.csv"))}
        splits = [split for split in tables if split != ALL_SPLITS] or [*tables]
        if not splits:
            require(self.folder, [f"{self.task}_train.csv"], LAYOUT)
        choose("split", self.split, ["all", *splits])
        images = [f"Images/{path}" for path in find_files(self.folder / "Images")]
        rows: dict[str, dict[str, str]] = {}
        missing: list[str] = []
        for split in splits if self.split == "all" else [self.split]:
            table = read_table(tables[split], key="filename")
            matches = match(table, images, tables[split])
            missing += [name for name in table if name not in matches]
            if twice := {*matches.values()} & {*rows}:
                raise ValueError(
                    f"{tables[split]}: {shortened(sorted(twice))} are in another split too; choose one split."
                )
            rows |= {path: table[key] | {"split": split} for key, path in matches.items()}
        if missing:
            leave_out(
                self.unmatched if rows else "stop",
                f"images.root={self.folder}: Images/ lacks {shortened(missing)} of the {self.task} csv. Images whose licence "
                "forbids derivatives are downloaded by download_and_process_nd_images.py of the data set's repository",
            )
        return label_columns(rows)
