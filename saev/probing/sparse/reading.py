"""The codes that `sparse_probing` fits, of all dictionaries in one read: a sample of tokens, and images' pooled codes."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int64
from scipy.sparse import csr_array

from saev.ops.sparse import SparseCodes
from saev.probing.data.sources import CodeBatch, Source, Split, TokenInfo
from saev.probing.data.splits import TRUE, LabelledData
from saev.probing.passes import batches
from saev.probing.settings import SparseSettings
from saev.probing.sparse.pooling import PooledCodes, codes_matrix, sample_evenly
from saev.shards.selection import positions, select

BLOCK = 1 << 16  # tokens whose labels are read at a time


@dataclass(frozen=True)
class Rows:
    """Codes and labels of training or validation rows: tokens or images."""

    codes: csr_array
    labels: Int64[np.ndarray, " rows"] | Bool[np.ndarray, "rows classes"]

    def of_class(self, number: int) -> Bool[np.ndarray, " rows"]:
        """Which rows are of a class."""
        return self.labels == number if self.labels.ndim == 1 else self.labels[:, number]


@dataclass(frozen=True)
class View:
    """The data of one dictionary at one level; `pooling` is None for tokens."""

    member: str
    level: str
    pooling: str | None
    train: Rows
    val: Rows


class TokenSample:
    """At most `most` labelled tokens of a split, equally many of every image, and their codes by dictionary.

    Where the split has more images than that, as many images are drawn first. Memory: 12 bytes per non-zero code.
    """

    def __init__(self, split: Split, most: int, seed: int):
        images = split.images
        if len(images) > most:
            images = np.sort(np.random.default_rng(seed).choice(images, most, replace=False))
        runs = select(split.store.tokens_per_image(split.layer), images, split.store.role_slice(split.tokens))
        run, token = positions(runs)
        example = runs.example[run]
        blocks = [slice(start, start + BLOCK) for start in range(0, len(token), BLOCK)]
        counted = [split.token_info(TRUE, example[block], token[block]).counted.numpy() for block in blocks]
        kept = np.concatenate(counted)
        example, token = example[kept], token[kept]
        drawn = sample_evenly(example, most, seed)
        self.key = self._key(example[drawn], token[drawn])
        self.labels = split.token_info(TRUE, example[drawn], token[drawn]).labels.numpy()
        self.parts: dict[str, list[tuple[np.ndarray, ...]]] = defaultdict(list)

    @staticmethod
    def _key(example: Int[np.ndarray, " tokens"], token: Int[np.ndarray, " tokens"]) -> Int64[np.ndarray, " tokens"]:
        return (example.astype(np.int64) << 32) | token

    def update(self, batch: CodeBatch, _: TokenInfo) -> None:
        """Keep the codes of the batch's tokens that are in the sample."""
        key = self._key(batch.example, batch.token)
        row = np.searchsorted(self.key, key).clip(max=len(self.key) - 1)
        row = np.where(self.key[row] == key, row, -1).astype(np.int32)
        for name, codes in batch.codes.items():
            self.parts[name].append(entries(codes, row))

    @property
    def nbytes(self) -> int:
        """Memory of the codes."""
        return sum(array.nbytes for parts in self.parts.values() for part in parts for array in part)

    def rows(self, name: str) -> dict[str | None, Rows]:
        """The sample's codes of a dictionary; they are released."""
        parts = self.parts.pop(name)
        row, latent, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        return {None: Rows(codes_matrix(row, latent, value, len(self.key)), self.labels)}


class ImageSample:
    """A split's images: pooled codes by dictionary, and the classes of their tokens."""

    def __init__(self, split: Split, n_classes: int, poolings: Sequence[str]):
        self.poolings, n = poolings, len(split.images)
        self.classes, self.labelled = np.zeros((n, n_classes), bool), np.zeros(n, bool)
        self.pooled: dict[str, PooledCodes] = defaultdict(lambda: PooledCodes(n))

    def update(self, batch: CodeBatch, info: TokenInfo) -> None:
        """Add a batch."""
        labels, counted, image = (column.numpy() for column in info)
        for name, codes in batch.codes.items():
            self.pooled[name].update(codes, image)
        labels, image = labels[counted], image[counted]
        self.labelled[image] = True
        if labels.ndim == 1:
            self.classes[image, labels] = True
        else:
            np.logical_or.at(self.classes, image, labels)

    @property
    def nbytes(self) -> int:
        """Memory of the codes."""
        return sum(pooled.nbytes for pooled in self.pooled.values())

    def rows(self, name: str) -> dict[str | None, Rows]:
        """Labelled images, by pooling; their codes are released."""
        pooled, labelled = self.pooled.pop(name), np.flatnonzero(self.labelled)
        return {pooling: Rows(pooled.codes(pooling)[labelled], self.classes[labelled]) for pooling in self.poolings}


def entries(codes: SparseCodes, row: Int[np.ndarray, " tokens"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, latent, value) of the codes of tokens whose row is not -1: int32, int32, float32."""
    offsets, latents, values = (part.cpu().numpy() for part in codes)
    rows = np.repeat(row, np.diff(offsets))
    kept = (rows >= 0) & (values != 0)
    return rows[kept], latents[kept].astype(np.int32), values[kept].astype(np.float32)


def read_views(settings: SparseSettings, data: LabelledData, sources: Sequence[Source]) -> Iterator[View]:
    """Every dictionary at every level, after one read. ValueError where codes exceed `budget_gib`."""
    levels = [level for level in ("token", "image") if level in settings.levels]
    samples: dict[tuple[str, str], TokenSample | ImageSample] = {}
    for split in data.splits:
        if "token" in levels:
            samples["token", split.name] = TokenSample(split, settings.tokens, settings.seed)
        if "image" in levels:
            samples["image", split.name] = ImageSample(split, len(data.names), settings.pooling)
    for split, _, batch, _ in batches(data.splits, sources, "Codes for sparse probes", {}):
        info = split.token_info(TRUE, batch.example, batch.token)
        for level in levels:
            samples[level, split.name].update(batch, info)
        if sum(sample.nbytes for sample in samples.values()) > settings.budget_gib * 2**30:
            raise ValueError(
                f"sparse.budget_gib={settings.budget_gib}: the codes take more; raise it, probe fewer dictionaries at a "
                "time, lower sparse.tokens, or keep the largest codes alone (latent_topk)."
            )
    for name in [name for source in sources for name in source.names]:
        for level in levels:
            train, val = (samples[level, split.name].rows(name) for split in data.splits)
            for pooling in train:
                yield View(name, level, pooling, train[pooling], val[pooling])
