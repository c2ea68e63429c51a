"""Reading a recording: its tables, and any image's activations in place."""

import logging
import os
from collections.abc import Collection
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64, Shaped, UInt16

from saev.files import plain_name, read_parquet
from saev.settings import listed
from saev.shards import index
from saev.shards.codec import Codec, codec_path
from saev.shards.location import Location
from saev.shards.manifest import FILE as MANIFEST
from saev.shards.manifest import LABELS, Manifest, layer_dir
from saev.shards.moments import ByRole, Moments, load_moments
from saev.shards.verify import verify
from saev.shards.writer import EXAMPLES

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)

COPYING_S = 3600  # a copy that does not keep times may take so long
ROLES = {
    "patches": ("patches",),
    "cls": ("cls",),
    "special": ("cls", "registers"),
    "all": ("cls", "registers", "patches"),
}


class ActivationStore:
    """A complete recording, opened for reading; ValueError for an incomplete one."""

    def __init__(self, root: str | os.PathLike):
        self.location = Location(root)
        self.root = Path(root)
        self.manifest = Manifest.load(self.location.path(MANIFEST).parent)
        if not self.manifest.complete:
            done = "part" if self.location.remote else len(list(self.root.glob("shard-*.json")))
            total = -(-self.manifest.n_examples // self.manifest.examples_per_shard)
            raise ValueError(
                f"dataset={root} is incomplete ({done} of {total} shards recorded): run the same `saev record` command again "
                "to resume it."
            )
        self.location.sha256 = self.manifest.files
        self.d_model, self.layers = self.manifest.d_model, self.manifest.layers
        self._offsets: dict[int, np.ndarray] = {}
        self._paths: dict[int, list[Path]] = {}
        self._files: dict[Path, np.ndarray] = {}
        self._codecs: dict[int, Codec] = {}

    @property
    def name(self) -> str:
        """The recording's name: the last part of its path."""
        return self.location.name

    @cached_property
    def examples(self) -> "pl.DataFrame":
        """examples.parquet: a row per image, row number = image number."""
        table = read_parquet(self.location.path(EXAMPLES))
        for name in table["path"].drop_nulls() if "path" in table.columns else ():
            plain_name(name, f"{EXAMPLES} of {self.location.root}")
        return table

    @cached_property
    def token_labels(self) -> UInt16[np.ndarray, " n_tokens"] | None:
        """The label of each stored token, image after image (memory-mapped; 65535: unlabelled); None without labels."""
        if self.manifest.labels is None:
            return None
        path = self.location.path(LABELS)
        labels = np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else np.zeros(0, np.uint16)
        if labels.shape != (self.manifest.n_tokens,) or labels.dtype != np.uint16:
            raise ValueError(
                f"{path} is missing or holds {labels.dtype} {labels.shape} instead of uint16 ({self.manifest.n_tokens},): "
                "restore it or record the dataset again."
            )
        return labels

    def labels_for(self, ignore: Collection[int]) -> UInt16[np.ndarray, " n_tokens"] | None:
        """`token_labels`; ValueError if labels are to be ignored but none are recorded."""
        if ignore and self.token_labels is None:
            raise ValueError(
                f"ignore_labels={list(ignore)}: {self.location.root} has no patch labels; record an image set with masks, "
                "e.g. images=segmentation, or leave ignore_labels out."
            )
        return self.token_labels

    def codec(self, layer: int) -> Codec:
        """The codec of a layer's stored rows."""
        self.check_layer(layer)
        if layer not in self._codecs:
            file = codec_path(Path(), layer)
            root = self.location.path(str(file)).parents[1] if self.manifest.dtype == "int8" else self.root
            self._codecs[layer] = Codec.load(root, layer, self.manifest)
        return self._codecs[layer]

    def tokens_per_image(self, layer: int) -> Int64[np.ndarray, " n_examples"]:
        """Stored tokens of each image; 0 where it could not be read."""
        if self.location.remote:
            return self.examples["n_tokens"].to_numpy().astype(np.int64)
        return self.offsets(layer)[:, 2]

    def shard_of(self, layer: int) -> Int64[np.ndarray, " n_examples"]:
        """The number of the shard that holds each image; shards hold consecutive images."""
        counts = [shard["examples"] for shard in self.shards(layer)]
        readable = self.tokens_per_image(layer) > 0
        if sum(counts) != readable.sum():
            raise ValueError(
                f"{self.location.root}: the shards of layer {layer} hold {sum(counts)} images, {EXAMPLES} says {readable.sum()}: "
                "record the dataset again."
            )
        shards = np.zeros(len(readable), np.int64)
        shards[readable] = np.repeat(np.arange(len(counts)), counts)
        return np.maximum.accumulate(shards)

    def shard_urls(self, layer: int) -> list[str]:
        """Addresses or paths of a layer's tar files, in order."""
        return [self.location.url(shard["file"]) for shard in self.shards(layer)]

    def shards(self, layer: int) -> list[dict[str, Any]]:
        """A layer's shards as the manifest describes them, in order."""
        self.check_layer(layer)
        return [shard for shard in self.manifest.shards if Path(shard["file"]).parent.name == layer_dir(layer)]

    def check_layer(self, layer: int) -> None:
        """ValueError naming the recorded layers where `layer` is not one of them."""
        if layer not in self.layers:
            raise ValueError(
                f"layer={layer} is not in {self.location.root} (recorded: {list(self.layers)}): choose one or record it."
            )

    def resolve_layer(self, layer: int) -> int:
        """The true block index of `layer`; negative ones count from the backbone's last block."""
        depth = self.manifest.meaning.get("vit", {}).get("depth")
        resolved = layer + int(depth or max(self.layers) + 1) if layer < 0 else layer
        self.check_layer(resolved)
        return resolved

    def moments(self, layer: int, tokens: str = "all") -> Moments:
        """Mean, variance and norms over all selected tokens of a layer."""
        self.check_layer(layer)
        self.role_slice(tokens)
        stored = self.role_moments(layer)
        moments = reduce(Moments.merge, (stored[role] for role in ROLES[tokens] if role in stored))
        if not (np.isfinite(moments.mean).all() and np.isfinite(moments.m2).all() and moments.scale > 0):
            raise ValueError(
                f"layer={layer} of {self.location.root} has NaN, infinite or constant activations: record it again."
            )
        return moments

    def role_moments(self, layer: int) -> ByRole:
        """Mean, variance and norms of a layer's tokens, by role."""
        return load_moments(self.location.path(f"{layer_dir(layer)}/stats.safetensors"))

    def offsets(self, layer: int) -> Int64[np.ndarray, "n_examples 3"]:
        """(shard, byte offset of the first value, tokens) of each image; images that could not be read have 0 tokens."""
        if layer in self._offsets:
            return self._offsets[layer]
        table = np.zeros((self.manifest.n_examples, 3), np.int64)
        for number, (path, shard) in enumerate(zip(self.shard_paths(layer), self.shards(layer), strict=True)):
            rows = index.load(path, self.d_model, self.manifest.dtype, shard["index_sha256"])
            if len(rows) and not (rows[:, 0].min() >= 0 and rows[:, 0].max() < len(table)):
                raise ValueError(
                    f"{path} holds images beyond the manifest's {len(table)}: it belongs to another recording."
                )
            table[rows[:, 0], 0] = number
            table[rows[:, 0], 1:] = rows[:, 1:]
        self._offsets[layer] = table
        return table

    def shard_paths(self, layer: int) -> list[Path]:
        """The tar files of a layer in order; ValueError where one is missing or has the wrong size, a warning where it is later."""
        self.check_layer(layer)
        if layer in self._paths:
            return self._paths[layer]
        paths = []
        if self.location.remote:
            raise ValueError(
                f"dataset={self.location.root} is remote, its images cannot be read one by one: stream it "
                "(datamodule.reader=streamed), or copy it here."
            )
        for shard in self.shards(layer):
            path = self.root / shard["file"]
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                state = "is missing" if size is None else f"has {size} bytes instead of {shard['bytes']}"
                raise ValueError(f"{path} {state}: restore it or record the dataset again.")
            paths.append(path)
        finished = (self.root / MANIFEST).stat().st_mtime  # written last
        if later := [path for path in paths if path.stat().st_mtime > finished + COPYING_S]:
            log.warning(
                "%s was written after the recording was finished: if it was not copied, it has changed; to compare all files: "
                "saev doctor %s", later[0], self.root,
            )  # fmt: skip
        self._paths[layer] = paths
        return paths

    def role_slice(self, tokens: str) -> tuple[int, int]:
        """(start, stop) of the selected tokens within each image; stop = -1 means up to the image's last token."""
        if tokens not in ROLES:
            raise ValueError(f"tokens={tokens}: choose {listed(list(ROLES))}.")
        roles, start, slices = self.manifest.roles, 0, {}
        for role, count in roles.items():
            slices[role] = (start, -1 if count < 0 else start + count)
            start += max(count, 0)
        selected = [slices[role] for role in ROLES[tokens] if roles.get(role)]
        if not selected:
            raise ValueError(
                f"tokens={tokens}: {self.location.root} has no {' or '.join(ROLES[tokens])} (stored: {list(roles)}): "
                f"record them, e.g. record.tokens=[{','.join([*ROLES[tokens], *roles])}]."
            )
        return selected[0][0], selected[-1][1]

    def read(self, layer: int, example: int, tokens: str = "all") -> Shaped[np.ndarray, "tokens d_model"]:
        """The activations of one image: memory-mapped and read-only, in the stored dtype; float32 from int8 storage."""
        shard, offset, n_tokens = self.offsets(layer)[example]
        file = self._files.get(path := self.shard_paths(layer)[shard])
        if file is None:
            file = self._files[path] = np.memmap(path, np.uint8, "r")
        codec = self.codec(layer)
        width, dtype = codec.stored_shape_dtype
        rows = file[offset : offset + n_tokens * codec.row_bytes].view(dtype).reshape(-1, width)
        start, stop = self.role_slice(tokens)
        return codec.decode(rows[start : None if stop < 0 else stop])

    def verify(self) -> list[str]:
        """The faults of the recording's files by their sha256, one line each; reads every file."""
        return verify(self.root, self.manifest)
