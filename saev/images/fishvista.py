"""Fish-Vista as its repository publishes it (https://huggingface.co/datasets/imageomics/fish-vista).

root/Images/[chunk_n/]*.jpg    root/{segmentation,classification,identification}_{split}.csv (filename, ...)
root/segmentation_masks/images/*.png    root/segmentation_masks/seg_id_trait_map.json
"""

from collections.abc import Sequence
from dataclasses import dataclass

from saev.images.classes import read_classes
from saev.images.files import Listing, choose, find, leave_out, require
from saev.images.masked import MaskedImages, check_masks, masks_below
from saev.images.tables import Row, label_columns, match, read_table, some

TASKS = ("segmentation", "classification", "identification")
COLLATION = "data"  # segmentation_data.csv repeats the three splits
MASKS, TRAITS = "segmentation_masks/images", "segmentation_masks/seg_id_trait_map.json"
LAYOUT = "clone the data set imageomics/fish-vista (with git-lfs) and give its folder, images.root=/data/fish-vista."


@dataclass(kw_only=True)
class FishVista(MaskedImages):
    """Fish-Vista: the images of a task's csv, its columns and `split` as labels; trait masks for segmentation."""

    task: str = "segmentation"
    split: str = "all"
    background: Sequence[int] | int = (0,)
    unmatched: str = "stop"
    """stop or drop: what to do about images of the csv that are not there."""
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
        found = masks_below(self.folder, MASKS)
        stems = {path: path.rpartition("/")[2].rpartition(".")[0] for path in paths}
        masks = {path: found[stem] for path, stem in stems.items() if stem in found}
        check_masks(self.folder, paths, masks, MASKS, self.require_masks)
        traits = self.folder / TRAITS
        classes = read_classes(traits) if traits.is_file() else {}
        return Listing(paths, rows.__getitem__, masks, classes, from_tables=True)

    def _rows(self) -> dict[str, Row]:
        """Label columns by image, out of the task's csv files."""
        tables = {path.stem.split("_", 1)[1]: path for path in sorted(self.folder.glob(f"{self.task}_*.csv"))}
        splits = [split for split in tables if split != COLLATION] or [*tables]
        if not splits:
            require(self.folder, [f"{self.task}_train.csv"], LAYOUT)
        choose("split", self.split, ["all", *splits])
        images = [f"Images/{path}" for path in find(self.folder / "Images")]
        rows: dict[str, dict[str, str]] = {}
        missing: list[str] = []
        for split in splits if self.split == "all" else [self.split]:
            table = read_table(tables[split], key="filename")
            here = match(table, images, tables[split])
            missing += [name for name in table if name not in here]
            if twice := {*here.values()} & {*rows}:
                raise ValueError(
                    f"{tables[split]}: {some(sorted(twice))} stand in another split too; choose one split."
                )
            rows |= {path: table[key] | {"split": split} for key, path in here.items()}
        if missing:
            leave_out(
                self.unmatched if rows else "stop",
                f"images.root={self.folder}: Images/ lacks {some(missing)} of the {self.task} csv. Those whose licence "
                "forbids derivatives are fetched by download_and_process_nd_images.py, which comes with the data",
            )
        return label_columns(rows)
