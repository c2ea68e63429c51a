"""CUB-200-2011, as unpacked from its archive or as an ImageFolder tree of its two splits.

root/images.txt, image_class_labels.txt, classes.txt, train_test_split.txt, images/001.Black_footed_Albatross/*.jpg
root/{train,test}/001.Black_footed_Albatross/*.jpg
"""

import re
from dataclasses import dataclass

from saev.images.files import FileImages, Listing, choose, require
from saev.images.tables import Row, read_table, shortened
from saev.images.walking import find_files

SPLITS = ("train", "test")
TABLES = {"images.txt": "path", "image_class_labels.txt": "class_id", "train_test_split.txt": "is_train"}
LAYOUT = (
    "unpack CUB_200_2011.tgz and give its folder CUB_200_2011 (with images.txt and images/), or a folder with "
    "train/ and test/ and a folder per class in each."
)


@dataclass(kw_only=True)
class Cub200(FileImages):
    """CUB-200-2011: columns class, class_id (from 1, as in the archive), split, and image_id if known."""

    split: str = "all"
    name: str = "cub200"

    @property
    def kind(self) -> str:
        return "cub200"

    def listing(self) -> Listing:
        choose("split", self.split, [*SPLITS, "all"])
        tree = not (self.folder / "images.txt").is_file() and any((self.folder / split).is_dir() for split in SPLITS)
        rows = self._tree() if tree else self._archive()
        rows = {path: row for path, row in sorted(rows.items()) if self.split in ("all", row["split"])}
        if not rows:
            raise ValueError(f"images.root={self.root} holds no images of images.split={self.split}: {LAYOUT}")
        return Listing([*rows], rows.__getitem__, from_tables=not tree)

    def _archive(self) -> dict[str, Row]:
        require(self.folder, [*TABLES, "classes.txt", "images"], LAYOUT)
        classes = {id: row["class"] for id, row in read_table(self.folder / "classes.txt", column="class").items()}
        images, labels, splits = (read_table(self.folder / name, column=column) for name, column in TABLES.items())
        files = {*find_files(self.folder / "images")}
        missing = [row["path"] for row in images.values() if row["path"] not in files]
        if missing:
            raise ValueError(
                f"images.root={self.root}: images/ lacks {shortened(missing)} of images.txt; unpack it again."
            )
        rows = {}
        for id, row in images.items():
            class_id = labels.get(id, {}).get("class_id", "")
            if class_id not in classes or id not in splits:
                raise ValueError(
                    f"images.root={self.root}: image {id} of images.txt has no line in image_class_labels.txt, "
                    "train_test_split.txt, or its class none in classes.txt; unpack the archive again."
                )
            split = "train" if splits[id]["is_train"] == "1" else "test"
            columns = {"class": classes[class_id], "class_id": int(class_id), "split": split, "image_id": int(id)}
            rows[f"images/{row['path']}"] = columns
        return rows

    def _tree(self) -> dict[str, Row]:
        splits = SPLITS if self.split == "all" else (self.split,)
        require(self.folder, splits, LAYOUT)
        paths = [f"{split}/{path}" for split in splits for path in find_files(self.folder / split, "*/*")]
        rows = {path: {"class": path.split("/")[1], "split": path.split("/")[0]} for path in paths}
        numbered = all(re.match(r"\d+\.", row["class"]) for row in rows.values())
        return {
            path: row | ({"class_id": int(row["class"].split(".")[0])} if numbered else {})
            for path, row in rows.items()
        }
