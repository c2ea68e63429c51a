"""Embeddings of a recording's images by an independent encoder: from a file, another recording, or a backbone."""

import logging
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64

from saev.files import read_parquet
from saev.images.source import ImageSource
from saev.progress import bar
from saev.shards.reader import ActivationStore
from saev.vits.batching import BATCHES_SORTED, chunks, passes
from saev.vits.image_loader import ImageLoader
from saev.vits.outputs import POOLED, outputs
from saev.vits.source import VitSource
from saev.vits.threads import default_workers, load_ahead

log = logging.getLogger(__name__)
NAMES = ("key", "path", "name", "image", "file")  # of the column or array of image names, the first that is there
SUFFIXES = (".npy", ".npz", ".parquet", ".safetensors")


def embeddings_from_file(
    path: str | os.PathLike, store: ActivationStore, example: Int64[np.ndarray, " images"]
) -> Float32[np.ndarray, "images width"]:
    """The embeddings of these images of a recording. ValueError naming the file for what does not fit.

    A file with image names (a column or array `key`, `path`, `name`, `image` or `file`, as the recording's `key`) is matched by
    name; one without has a row for each image of the recording, in its order. The embeddings are the only other array of .npz and
    .safetensors; of .parquet the only column of lists, or all columns of numbers.
    """
    path = Path(path).expanduser()
    names, rows = read_embeddings(path)
    if not np.isfinite(rows).all():
        raise ValueError(f"embeddings={path} has values that are NaN or infinite: embed these images again.")
    if names is None:
        if len(rows) != store.manifest.n_examples:
            raise ValueError(
                f"embeddings={path} has {len(rows)} rows without image names, {store.name} {store.manifest.n_examples} images: give a row "
                "for each, or a file with names (.npz or .parquet with `key`)."
            )
        return rows[example]
    return rows[rows_of(store.examples["key"].gather(example).to_list(), names, f"embeddings={path}")]


def rows_of(keys: Sequence[str], names: Sequence[str], what: str) -> list[int]:
    """The row of each key; ValueError for one without, and for names that occur twice."""
    number = {str(name): i for i, name in enumerate(names)}
    if len(number) < len(names):
        raise ValueError(f"{what} names an image twice: leave one of its rows out.")
    if absent := [key for key in keys if key not in number]:
        raise ValueError(
            f"{what} has no row for {len(absent)} of {len(keys)} images, the first: {absent[0]}: name images as the recording does "
            "(`key` of examples.parquet)."
        )
    return [number[key] for key in keys]


def read_embeddings(path: Path) -> tuple[Sequence[str] | None, Float32[np.ndarray, "rows width"]]:
    """The names in a file, None without, and its embeddings."""
    if path.suffix not in SUFFIXES or not path.is_file():
        raise ValueError(f"embeddings={path} is no file of {', '.join(SUFFIXES)}: give one, or a recording.")
    names, columns = None, {}
    try:
        if path.suffix == ".parquet":
            table = read_parquet(path)
            names = next((table[name].to_list() for name in NAMES if name in table.columns), None)
            lists = [c for c in table.columns if isinstance(table.schema[c], pl.List | pl.Array)]
            numbers = [c for c in table.columns if table.schema[c].is_float()]  # integers may be ids
            columns = {c: np.array(table[c].to_list()) for c in lists} or {"": table.select(numbers).to_numpy()}
        elif path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            columns = load_file(path)
        else:
            loaded = np.load(path, allow_pickle=False)
            columns = {"": loaded} if path.suffix == ".npy" else {name: loaded[name] for name in loaded.files}
            names = next((columns.pop(name).tolist() for name in NAMES if name in columns), None)
        (rows,) = columns.values()
        if rows.ndim != 2 or rows.size == 0 or (names is not None and len(names) != len(rows)):
            raise ValueError(f"shape {rows.shape}" + (f" for {len(names)} names" if names is not None else ""))
        return names, rows.astype(np.float32)
    except Exception as error:  # readers raise many types
        raise ValueError(
            f"embeddings={path} cannot be read ({error}): it must hold one array [images, width] and, of .npz and .parquet, image names."
        ) from error


def embeddings_from_recording(
    other: ActivationStore,
    store: ActivationStore,
    example: Int64[np.ndarray, " images"],
    layer: int | None = None,
    tokens: str = "patches",
) -> Float32[np.ndarray, "images width"]:
    """The mean over the tokens of each image of another recording of the same images, matched by `key`; layer None: its last."""
    layer = other.layers[-1] if layer is None else other.resolve_layer(layer)
    if other.manifest.meaning.get("vit") == store.manifest.meaning.get("vit"):
        log.warning("embeddings=%s is of the backbone that the dictionaries read: it is not independent", other.name)
    keys = store.examples["key"].gather(example).to_list()
    readable = np.flatnonzero(other.tokens_per_image(layer))
    rows = rows_of(keys, other.examples["key"].gather(readable).to_list(), f"embeddings={other.name}")
    return np.stack([other.read(layer, int(readable[row]), tokens).mean(0, dtype=np.float32) for row in rows])


@torch.inference_mode()
def embeddings_from_backbone(
    vit: VitSource,
    images: ImageSource,
    store: ActivationStore,
    example: Int64[np.ndarray, " images"],
    layer: int | None = None,
    batch_size: int = 32,
    device: str = "cpu",
) -> Float32[np.ndarray, "images width"]:
    """The backbone's pooled output of each image, or, with `layer`, the mean of its patches there (as ViSAEBench).

    `images`: the image set that was recorded. ValueError where an image is not in it or cannot be read.
    """
    backbone = vit.load(device)
    order = np.array(images.indices(store.examples["key"].gather(example).to_list(), store.name), np.int64)
    loader = ImageLoader(images, order, backbone.transform, backbone.shape, {}, None, "stop")
    ahead, result = (1 if backbone.grid else BATCHES_SORTED) * batch_size, {}
    with (
        closing(load_ahead(loader, range(len(order)), default_workers(), ahead)) as loaded,
        bar("Embedding", len(order)) as advance,
    ):
        for chunk in chunks(range(len(order)), ahead):
            pictures = [next(loaded) for _ in chunk]
            for indices in passes([picture.grid for picture in pictures], batch_size):
                pixels = torch.stack([p for i in indices if (p := pictures[i].pixels) is not None]).to(device)
                if layer is None:
                    embedded = outputs(backbone, pixels)[POOLED]
                else:
                    (acts,) = backbone(pixels, [layer]).values()
                    embedded = acts[:, backbone.n_cls + backbone.n_registers :].mean(1)
                result |= {
                    pictures[i].index: row for i, row in zip(indices, embedded.float().cpu().numpy(), strict=True)
                }
            advance(len(chunk))
    return np.stack([result[i] for i in range(len(order))])
