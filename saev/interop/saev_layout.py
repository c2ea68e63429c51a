"""Activation shards of OSU-NLP-Group/saev (metadata.json, acts000000.bin, ...): their metadata and arrays.

A shard is float32 little-endian [examples_per_shard, layers, tokens, d_model] with examples_per_shard =
max_tokens_per_shard // (tokens * layers); the last one is padded with zeros. Layers are stored in ascending order, whatever
the metadata says. The first token is cls where cls_token is true.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from saev.interop.weights import load_json, positive, refuse_unknown

METADATA, SHARDS = "metadata.json", "shards.json"
# Our name -> the names in the file, newest first (protocols 2.1, 2.0, 1.x and before).
NAMES = {
    "family": ("family", "vit_family"),
    "ckpt": ("ckpt", "vit_ckpt"),
    "patches": ("content_tokens_per_example", "patches_per_ex", "n_patches_per_img"),
    "d_model": ("d_model", "d_vit"),
    "n_examples": ("n_examples", "n_ex", "n_imgs"),
    "budget": ("max_tokens_per_shard", "patches_per_shard", "max_patches_per_shard", "n_patches_per_shard"),
}
OTHER = ("layers", "cls_token", "data", "dataset", "pixel_agg", "dtype", "protocol", "seed")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The contents of metadata.json, in any version."""

    family: str
    ckpt: str
    layers: tuple[int, ...]  # ascending, counted from the first block
    cls_token: bool
    patches: int
    d_model: int
    n_examples: int
    budget: int  # tokens per shard, over all layers
    pixel_agg: str | None

    @property
    def tokens(self) -> int:
        """Tokens per image."""
        return self.patches + self.cls_token

    @property
    def examples_per_shard(self) -> int:
        """Images of a full shard."""
        return self.budget // (self.tokens * len(self.layers))


def read_layout(source: Path, depth: int | None, ignore_unknown: bool) -> Layout:
    """metadata.json, in any version; ValueError for what is missing, unknown or impossible."""
    path = source / METADATA
    metadata = load_json(path)
    refuse_unknown(metadata, [*OTHER, *(name for names in NAMES.values() for name in names)], str(path), ignore_unknown)
    values = {}
    for name, names in NAMES.items():
        values[name] = next((metadata[key] for key in names if key in metadata), None)
        if values[name] is None:
            raise ValueError(f"{path} has none of {', '.join(names)}: restore it.")
    for name in ("patches", "d_model", "n_examples", "budget"):
        values[name] = positive(values[name], name, str(path))
    stated = {key: metadata.get(key) for key in ("dtype", "layers", "cls_token")}
    floats = metadata.get("dtype", "float32") == "float32"
    if not (floats and isinstance(stated["layers"], list) and "cls_token" in metadata):
        raise ValueError(f"{path} says {stated}: must be float32, a list of layers and whether there is a cls token.")
    layout = Layout(
        layers=ascending(metadata["layers"], depth, str(path)), cls_token=bool(metadata["cls_token"]),
        pixel_agg=metadata.get("pixel_agg"), **values,
    )  # fmt: skip
    if layout.examples_per_shard < 1:
        raise ValueError(
            f"{path}: {layout.budget} tokens per shard do not hold one image of {layout.tokens} tokens in {len(layout.layers)} layers."
        )
    return layout


def check_whole(source: Path, layout: Layout) -> None:
    """ValueError where shards.json, which protocols before 1.1 do not have, shows that the recording is incomplete."""
    path = source / SHARDS
    if not path.is_file():
        return
    try:
        entries = json.loads(path.read_text())
        written = sum(entry[({*entry} & {*NAMES["n_examples"]}).pop()] for entry in entries)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no list of shards with their numbers of images ({error!r}): restore it."
        ) from error
    if written != layout.n_examples:
        raise ValueError(
            f"{path} lists {written} images, {METADATA} {layout.n_examples}: saev was stopped while it recorded; record again."
        )


def ascending(layers: list[Any], depth: int | None, where: str) -> tuple[int, ...]:
    """True block indices in the order of the files; ValueError where `depth` is needed, or indices are not distinct."""
    if any(layer < 0 for layer in layers) and depth is None:
        raise ValueError(
            f"{where}: layers={layers} are counted from the last block: give --depth, the number of blocks."
        )
    indices = sorted(layer + (depth or 0) if layer < 0 else layer for layer in layers)
    if not indices or indices[0] < 0 or len({*indices}) < len(indices):
        raise ValueError(f"{where}: layers={layers} with --depth {depth} are not distinct blocks: check both.")
    return tuple(indices)


def open_shard(source: Path, layout: Layout, i: int) -> Float32[np.ndarray, "examples layers tokens d_model"]:
    """The images of shard i, memory-mapped; ValueError where the file is missing or has another size."""
    path = source / f"acts{i:06d}.bin"
    row = (len(layout.layers), layout.tokens, layout.d_model)
    size, full = 4 * int(np.prod(row)), layout.examples_per_shard
    held = min(full, layout.n_examples - i * full)
    n_bytes = path.stat().st_size if path.is_file() else None
    if n_bytes not in (full * size, held * size):
        state = "is missing" if n_bytes is None else f"has {n_bytes} bytes"
        raise ValueError(
            f"{path} {state}; {METADATA} says {held} images of {size} bytes, in a file for {full}: restore it, or the {METADATA} that "
            "belongs to it."
        )
    return np.memmap(path, np.dtype("<f4"), "r", shape=(held, *row)).astype(np.float32, copy=False)
