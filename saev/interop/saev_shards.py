"""Activation shards of OSU-NLP-Group/saev into a recording of ours, with their patch labels (labels.bin: uint8 [examples, patches])."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from saev.interop.saev_layout import METADATA, Layout, check_whole, open_shard, read_layout
from saev.interop.weights import load_json, sha256
from saev.progress import bar
from saev.shards import ActivationStore, RecordingWriter
from saev.shards.manifest import VOID

LABELS = "labels.bin"
METHODS = {"majority": "majority", "prefer-fg": "prefer-foreground"}


def convert(
    source: Path, out: Path, dtype: str = "float32", depth: int | None = None,
    grid: tuple[int, int] | None = None, ignore_unknown: bool = False, progress: bool = False,
) -> ActivationStore:  # fmt: skip
    """Record the activations of saev's shards into `out`, then read a sample back and compare; resumes after the last complete shard.

    Args:
        dtype: float32 keeps every bit; float16 halves the size.
        depth: blocks of the backbone, where the metadata counts layers from the end.
        grid: rows and columns of patches, which saev does not record.

    Raises ValueError where metadata, shards and labels disagree, or values exceed `dtype`.
    """
    layout = read_layout(source, depth, ignore_unknown)
    if grid is not None and grid[0] * grid[1] != layout.patches:
        raise ValueError(f"--grid {grid[0]}x{grid[1]}: the images have {layout.patches} patches; give rows x columns.")
    if dtype not in ("float16", "float32"):
        raise ValueError(f"--dtype {dtype}: choose float32 (every bit) or float16.")
    check_whole(source, layout)
    for i in range(-(-layout.n_examples // layout.examples_per_shard)):
        open_shard(source, layout, i)  # all of them before the first is copied
    labels = open_labels(source, layout)
    writer = RecordingWriter(
        out, meaning(source, layout, depth), layout.n_examples, layout.examples_per_shard, layout.layers,
        roles={"cls": 1, "patches": layout.patches} if layout.cls_token else {"patches": layout.patches},
        d_model=layout.d_model, dtype=dtype, labels=None if labels is None else labelling(layout),
    )  # fmt: skip
    pending = writer.pending()
    grids = {"grid_h": grid[0], "grid_w": grid[1]} if grid else {"grid_h": None, "grid_w": None}
    with bar("Converting shards", len(pending), visible=progress) as advance:
        for i in pending:
            acts = open_shard(source, layout, i)
            with writer.shard(i) as shard:
                for offset, example in enumerate(writer.examples_of(i)):
                    values = {layer: acts[offset, n] for n, layer in enumerate(layout.layers)}
                    row = {"key": str(example), "path": str(example), "width": None, "height": None, **grids}
                    shard.add(example, values, row, *token_labels(labels, example, layout))
            advance(1)
    writer.finish()
    store = ActivationStore(out)
    check(source, layout, store)
    return store


def open_labels(source: Path, layout: Layout) -> UInt8[np.ndarray, "examples patches"] | None:
    """Patch labels, memory-mapped; None where there are none. ValueError where they are of another size."""
    path = source / LABELS
    if not path.is_file():
        return None
    if path.stat().st_size != layout.n_examples * layout.patches:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, must be one for each of {layout.n_examples} x {layout.patches} patches: restore "
            "it, or remove it to convert without labels."
        )
    return np.memmap(path, np.uint8, "r", shape=(layout.n_examples, layout.patches))


def token_labels(
    labels: UInt8[np.ndarray, "examples patches"] | None, example: int, layout: Layout
) -> tuple[np.ndarray, np.ndarray] | tuple[()]:
    """(labels, label fractions) of an image's tokens; saev does not record the fractions: NaN."""
    if labels is None:
        return ()
    ids = np.full(layout.tokens, VOID, np.uint16)
    fractions = np.zeros(layout.tokens, np.float16)
    ids[-layout.patches :], fractions[-layout.patches :] = labels[example], np.nan
    return ids, fractions


def labelling(layout: Layout) -> dict[str, Any]:
    """How patches were labelled, in the terms of our recordings."""
    method = METHODS.get(layout.pixel_agg or "", "unknown")
    return {"method": method, "void": [], "background": [], "classes": {}}


def meaning(source: Path, layout: Layout, depth: int | None) -> Mapping[str, Any]:
    """What is recorded, without paths: `data` and `dataset` of the metadata, a pickle and a path, are left out."""
    metadata = load_json(source / METADATA)
    name = Path(str(metadata["dataset"])).name if metadata.get("dataset") else source.resolve().name
    kept = {key: value for key, value in metadata.items() if key not in ("data", "dataset")}
    return {
        "images": {"kind": "saev", "name": name},
        "vit": {"name": f"{layout.family}/{layout.ckpt}"} | ({"depth": depth} if depth else {}),
        "hook": "resid_post",
        "order": "as given",
        "source": {"library": "saev", "metadata": kept, "sha256": sha256((source / METADATA).read_bytes())},
    }


def check(source: Path, layout: Layout, store: ActivationStore, most: int = 32) -> None:
    """Compare up to `most` images, spread over the recording, in every layer; ValueError where one differs."""
    for example in np.unique(np.linspace(0, layout.n_examples - 1, most, dtype=np.int64)).tolist():
        shard, offset = divmod(example, layout.examples_per_shard)
        original = open_shard(source, layout, shard)[offset]
        for n, layer in enumerate(layout.layers):
            stored = store.read(layer, example)
            if not np.array_equal(stored, original[n].astype(stored.dtype)):
                raise ValueError(
                    f"image {example} of layer {layer} differs when read back: check the disk of {store.root}."
                )
