"""Tars of arrays that another program wrote, made readable in place by writing an index, statistics and a manifest.

<root>/layer-08/vectors-000.tar              a link if the tar lies elsewhere; nothing is copied
<root>/layer-08/vectors-000.foreign.idx.npy  image i is the i-th array, through the layer's tars in order
<root>/layer-08/stats.safetensors, examples.parquet, manifest.json
"""

import dataclasses
import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from saev.files import plain_name, sha256, write_atomically
from saev.shards.index import FOREIGN, read_header
from saev.shards.manifest import DTYPES, FILE, Manifest, layer_dir
from saev.shards.merging import with_tables
from saev.shards.moments import ByRole, Moments, by_role, merge_roles
from saev.shards.tar import npy

IMAGES_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class ForeignArray:
    """An array in a tar: its name, the offset of its values, and their shape [tokens, d_model]."""

    name: str
    offset: int
    shape: tuple[int, int]
    dtype: str


def index_foreign(
    root: str | os.PathLike,
    tars: Mapping[int, Sequence[str | os.PathLike]],
    suffix: str = ".npy",
    meaning: Mapping[str, Any] | None = None,
) -> Path:
    """Make a recording at `root` from uncompressed tars of arrays, without copying them; returns `root`.

    Args:
        tars: the tar files of each layer, in order. Arrays are [tokens, d_model], or [d_model] for one token, all of
            one width and one of float16, float32, float64, in C order. Every layer has the same images.
        suffix: the entries to take; the name without it is the image's key.
        meaning: description of the activations for the manifest: images, vit, ... (JSON-able).

    An earlier index at `root` is replaced. Raises ValueError naming the tar and the entry that do not fit.
    """
    root = Path(root)
    if (root / FILE).is_file() and not Manifest.load(root).meaning.get("foreign"):
        raise ValueError(f"{root} holds a recording: it is never overwritten; choose another directory.")
    arrays = {layer: [list(arrays_in(Path(tar), suffix)) for tar in tars[layer]] for layer in sorted(tars)}
    first = check_alike({layer: [a for tar in of_layer for a in tar] for layer, of_layer in arrays.items()}, suffix)
    shards, moments = [], {}
    for layer, of_layer in arrays.items():
        example, parts = 0, []
        for tar, of_tar in zip(map(Path, tars[layer]), of_layer, strict=True):
            parts.append(moments_of(tar, of_tar, first[0].shape[1]))
            shards.append(index_tar(tar, of_tar, root / layer_dir(layer), example))
            example += len(of_tar)
        moments[layer] = reduce(merge_roles, parts)
    counts = {array.shape[0] for array in first}
    manifest = Manifest(
        meaning={"images": {"name": root.name}, "vit": {"name": "foreign"}} | dict(meaning or {}) | {"foreign": True},
        layers=tuple(arrays),
        roles={"patches": counts.pop() if len(counts) == 1 else -1},
        d_model=first[0].shape[1],
        dtype=first[0].dtype,
        n_examples=len(first),
        examples_per_shard=max(shard["examples"] for shard in shards),
        shards=tuple(shards),
    )
    unknown = dict.fromkeys(("width", "height", "grid_h", "grid_w", "error"))
    rows = [
        {"index": i, "key": a.name.removesuffix(suffix), "path": a.name, "n_tokens": a.shape[0], **unknown}
        for i, a in enumerate(first)
    ]
    with_tables(root, manifest, rows, moments).save(root)
    return root


def arrays_in(path: Path, suffix: str) -> Iterator[ForeignArray]:
    """The arrays of a tar, in order; ValueError naming the entry that cannot be read in place."""
    try:
        with tarfile.open(path, "r:") as file:
            size = path.stat().st_size
            for info in file:
                if not (info.isfile() and info.name.endswith(suffix)):
                    continue
                plain_name(info.name, str(path), "rename the entry")
                if info.offset_data + info.size > size:
                    raise ValueError(f"{path} is truncated in entry {info.name}: restore it.")
                handle = file.extractfile(info)
                assert isinstance(handle, io.BufferedIOBase)
                try:
                    shape, dtype, head = read_header(handle)
                except ValueError as error:
                    raise ValueError(f"{path}: entry {info.name} cannot be read in place ({error}).") from error
                if len(shape) not in (1, 2) or dtype.str.removeprefix("<") not in ("f2", "f4", "f8"):
                    raise ValueError(
                        f"{path}: entry {info.name} holds {dtype} {shape}, not [tokens, d_model] or [d_model] of "
                        f"{', '.join(DTYPES[:3])}: choose others by `suffix`."
                    )
                tokens = shape[0] if len(shape) == 2 else 1
                yield ForeignArray(info.name, info.offset_data + head, (tokens, shape[-1]), dtype.name)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{path} is missing, compressed or no tar ({error}): unpack or restore it.") from error


def check_alike(arrays: Mapping[int, Sequence[ForeignArray]], suffix: str) -> Sequence[ForeignArray]:
    """The images of the first layer; ValueError unless arrays have one width and dtype and layers the same images."""
    if not arrays or not all(arrays.values()):
        raise ValueError(f"a layer has no tars with entries named *{suffix}: check `tars` and `suffix`.")
    first = next(iter(arrays.values()))
    for layer, of_layer in arrays.items():
        for a in of_layer:
            if (a.shape[1], a.dtype) != (first[0].shape[1], first[0].dtype):
                raise ValueError(
                    f"layer {layer}: {a.name} holds {a.dtype} of width {a.shape[1]}, {first[0].name} {first[0].dtype} of "
                    f"width {first[0].shape[1]}: index them at two roots."
                )
        if [(a.name, a.shape[0]) for a in of_layer] != [(a.name, a.shape[0]) for a in first]:
            raise ValueError(
                f"layer {layer} has other images (or an image's tokens differ) than layer {next(iter(arrays))}: give the "
                "tars of every layer in the same order, or one root to each layer."
            )
    return first


def index_tar(tar: Path, arrays: Sequence[ForeignArray], folder: Path, example: int) -> dict[str, Any]:
    """Write the index of a tar whose first array is image number `example`; returns the manifest's line on the tar."""
    link = linked(tar, folder)
    rows = [(example + i, a.offset, a.shape[0]) for i, a in enumerate(arrays)]
    write_atomically(index := link.with_suffix(FOREIGN), npy(np.array(rows, np.int64).reshape(-1, 3)))
    sizes = {"examples": len(rows), "tokens": sum(a.shape[0] for a in arrays), "bytes": tar.stat().st_size}
    return {"file": f"{folder.name}/{link.name}", **sizes, "sha256": sha256(tar), "index_sha256": sha256(index)}


def linked(tar: Path, folder: Path) -> Path:
    """The tar in the layer's folder, or a new link to it; ValueError where another tar has that name there."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / tar.name
    if link.suffix != ".tar":
        raise ValueError(f"{tar} is not named *.tar: rename it.")
    if not link.exists():
        link.unlink(missing_ok=True)  # a broken link
        link.symlink_to(os.path.relpath(tar.resolve(), folder.resolve()))
    if not link.samefile(tar):
        raise ValueError(f"{link} is another file than {tar}: rename one of the two.")
    return link


def moments_of(path: Path, arrays: Sequence[ForeignArray], d_model: int) -> ByRole:
    """The moments of a tar's arrays; ValueError where a value is NaN or infinite."""
    total: ByRole = {"patches": Moments.zeros(d_model)}
    if not arrays:
        return total
    values = np.memmap(path, np.uint8, "c")
    for i in range(0, len(arrays), IMAGES_AT_ONCE):
        batch = arrays[i : i + IMAGES_AT_ONCE]
        acts = [np.ndarray(a.shape, a.dtype, values, a.offset) for a in batch]  # type: ignore[arg-type]
        new = by_role(acts, {"patches": -1}, d_model)
        if not np.isfinite(new["patches"].norm_sum):
            bad = next(a.name for a, x in zip(batch, acts, strict=True) if not np.isfinite(x).all())
            raise ValueError(f"{path}: entry {bad} has NaN or infinite values: leave it out or correct it.")
        total = merge_roles(total, new)
    return total
