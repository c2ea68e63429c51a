"""Reading a recorded dataset: its tables, and any image's activations in place."""

import os
from collections.abc import Collection
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64, Shaped, UInt16

from saev.shards import index
from saev.shards.codec import Codec, codec_path
from saev.shards.location import Location
from saev.shards.manifest import FILE as MANIFEST
from saev.shards.manifest import LABELS, Manifest, layer_dir
from saev.shards.moments import Moments, load_moments
from saev.shards.verify import verify
from saev.shards.writer import EXAMPLES

if TYPE_CHECKING:
    import polars as pl

ROLES = {
    "patches": ("patches",),
    "cls": ("cls",),
    "special": ("cls", "registers"),
    "all": ("cls", "registers", "patches"),
}


class ActivationStore:
    """A complete recording, opened for reading. Refuses an incomplete one with what is missing."""

    def __init__(self, root: str | os.PathLike):
        self.location = Location(root)
        self.root = Path(root)
        self.manifest = Manifest.load(self.location.path(MANIFEST).parent)
        if not self.manifest.complete:
            done = "some" if self.location.remote else len(list(self.root.glob("shard-*.json")))
            total = -(-self.manifest.n_examples // self.manifest.examples_per_shard)
            raise ValueError(
                f"dataset={root} is incomplete ({done} of {total} shards recorded): run the same `saev record` command again, "
                "it goes on where it stopped."
            )
        self.d_model, self.layers = self.manifest.d_model, self.manifest.layers
        self._offsets: dict[int, np.ndarray] = {}
        self._paths: dict[int, list[Path]] = {}
        self._files: dict[Path, np.ndarray] = {}
        self._codecs: dict[int, Codec] = {}

    @property
    def name(self) -> str:
        """The dataset's own name, wherever it lies."""
        return self.location.name

    @cached_property
    def examples(self) -> "pl.DataFrame":
        """examples.parquet: a row per image, row number = image number."""
        import polars as pl  # heavy: only for those who look at the table

        return pl.read_parquet(self.location.path(EXAMPLES))

    @cached_property
    def token_labels(self) -> UInt16[np.ndarray, " n_tokens"] | None:
        """The label of each stored token, image after image (memory-mapped; 65535: none); None where none were recorded."""
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
        """`token_labels`; ValueError where labels are to be ignored and there are none."""
        if ignore and self.token_labels is None:
            raise ValueError(
                f"ignore_labels={list(ignore)}: {self.location.root} has no patch labels; record an image set with masks, "
                "e.g. images=segmentation, or leave ignore_labels out."
            )
        return self.token_labels

    def codec(self, layer: int) -> Codec:
        """How a layer's rows are stored."""
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
        held = np.repeat(np.arange(len(entries := self._entries(layer))), [entry["examples"] for entry in entries])
        readable = self.tokens_per_image(layer) > 0
        if len(held) != readable.sum():
            raise ValueError(
                f"{self.location.root}: the shards of layer {layer} hold {len(held)} images, {EXAMPLES} says {readable.sum()}: "
                "record the dataset again."
            )
        shards = np.zeros(len(readable), np.int64)
        shards[readable] = held
        return np.maximum.accumulate(shards)

    def shard_urls(self, layer: int) -> list[str]:
        """The tar files of a layer in order, as webdataset opens them."""
        return [self.location.url(entry["file"]) for entry in self._entries(layer)]

    def _entries(self, layer: int) -> list[dict[str, Any]]:
        self.check_layer(layer)
        return [entry for entry in self.manifest.shards if Path(entry["file"]).parent.name == layer_dir(layer)]

    def check_layer(self, layer: int) -> None:
        """ValueError naming the recorded layers where `layer` is not one of them."""
        if layer not in self.layers:
            raise ValueError(
                f"layer={layer} is not in {self.location.root} (recorded: {list(self.layers)}): choose one or record it."
            )

    def resolve_layer(self, layer: int) -> int:
        """The block index that `layer` means: negative ones count from the backbone's last block."""
        depth = self.manifest.meaning.get("vit", {}).get("depth")
        resolved = layer + int(depth or max(self.layers) + 1) if layer < 0 else layer
        self.check_layer(resolved)
        return resolved

    def moments(self, layer: int, tokens: str = "all") -> Moments:
        """Mean, variance and norms over every recorded token of a layer that the selection takes."""
        self.check_layer(layer)
        self.role_slice(tokens)
        stored = load_moments(self.location.path(f"{layer_dir(layer)}/stats.safetensors"))
        moments = reduce(Moments.merge, (stored[role] for role in ROLES[tokens] if role in stored))
        if not (np.isfinite(moments.mean).all() and np.isfinite(moments.m2).all() and moments.scale > 0):
            raise ValueError(
                f"layer={layer} of {self.location.root} has NaN, infinite or constant activations: record it again."
            )
        return moments

    def offsets(self, layer: int) -> Int64[np.ndarray, "n_examples 3"]:
        """(shard, byte offset of the first value, tokens) of each image; images that could not be read have 0 tokens."""
        if layer in self._offsets:
            return self._offsets[layer]
        table = np.zeros((self.manifest.n_examples, 3), np.int64)
        for number, path in enumerate(self.shard_paths(layer)):
            rows = index.load(path, self.d_model, self.manifest.dtype)
            if len(rows) and not (rows[:, 0].min() >= 0 and rows[:, 0].max() < len(table)):
                raise ValueError(
                    f"{path} holds images beyond the manifest's {len(table)}: it belongs to another dataset."
                )
            table[rows[:, 0], 0] = number
            table[rows[:, 0], 1:] = rows[:, 1:]
        self._offsets[layer] = table
        return table

    def shard_paths(self, layer: int) -> list[Path]:
        """The tar files of a layer in order; ValueError where one is missing or has another size than recorded."""
        self.check_layer(layer)
        if layer in self._paths:
            return self._paths[layer]
        paths = []
        if self.location.remote:
            raise ValueError(
                f"dataset={self.location.root} is remote, its images cannot be read one by one: stream it "
                "(datamodule.reader=streamed), or copy it here."
            )
        for entry in self._entries(layer):
            path = self.root / entry["file"]
            found = path.stat().st_size if path.is_file() else None
            if found != entry["bytes"]:
                state = "is missing" if found is None else f"has {found} bytes instead of {entry['bytes']}"
                raise ValueError(f"{path} {state}: restore it or record the dataset again.")
            paths.append(path)
        self._paths[layer] = paths
        return paths

    def role_slice(self, tokens: str) -> tuple[int, int]:
        """(start, stop) of a token selection within each image; stop = -1 means up to the image's last token."""
        if tokens not in ROLES:
            raise ValueError(f"tokens={tokens}: choose one of {list(ROLES)}.")
        roles, at, spans = self.manifest.roles, 0, {}
        for role, count in roles.items():
            spans[role] = (at, -1 if count < 0 else at + count)
            at += max(count, 0)
        wanted = [spans[role] for role in ROLES[tokens] if roles.get(role)]
        if not wanted:
            raise ValueError(
                f"tokens={tokens}: {self.location.root} has no {' or '.join(ROLES[tokens])} (stored: {list(roles)}): "
                f"record them, e.g. record.tokens=[{','.join([*ROLES[tokens], *roles])}]."
            )
        return wanted[0][0], wanted[-1][1]

    def read(self, layer: int, example: int, tokens: str = "all") -> Shaped[np.ndarray, "tokens d_model"]:
        """The activations of one image: memory-mapped and read-only, in the stored dtype; float32 out of int8 storage."""
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
        """Read every file of the dataset and compare sha256: the faults found, one line each."""
        return verify(self.root, self.manifest)
