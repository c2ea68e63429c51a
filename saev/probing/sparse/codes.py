"""The codes that `sparse_probing` fits, of all dictionaries in one read: a sample of tokens, and images' pooled codes.

An image's code is the maximum or the mean of each latent over all tokens of the image; tokens on which it is silent count as 0.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int, Int64
from scipy.sparse import csr_array

from saev.ops.sparse import SparseCodes
from saev.probing.labels import ImageLabels
from saev.probing.passes import CodeBatch, Source, batches
from saev.probing.settings import SparseSettings
from saev.probing.splits import TRUE, LabelledData, Split, TokenInfo
from saev.shards.selection import positions, select


class PooledCodes:
    """Images' codes of one dictionary; silent tokens count as 0 in the mean and in the maximum.

    Memory: 24 bytes per (image, latent) that fires, for each batch that has tokens of the image.
    """

    def __init__(self, n_images: int):
        self.tokens = np.zeros(n_images, np.int64)
        self.parts: list[pl.DataFrame] = []

    def update(self, codes: SparseCodes, image: Int[np.ndarray, " tokens"]) -> None:
        """Add a batch; `image` is the number of each token's image, -1 for images outside the split."""
        value = pl.col("value")
        largest, total, count = (
            value.max().alias("largest"),
            value.cast(pl.Float64).sum().alias("total"),
            pl.len().alias("count"),
        )
        pairs = pl.DataFrame(entries(codes, image.astype(np.int32)), schema=["image", "latent", "value"])
        self.parts.append(pairs.group_by("image", "latent").agg(largest, total, count))
        self.tokens += np.bincount(image[image >= 0], minlength=len(self.tokens))

    @property
    def nbytes(self) -> int:
        """Memory of the pairs."""
        return sum(int(part.estimated_size()) for part in self.parts)

    def codes(self, pooling: str) -> csr_array:
        """A row per image, a column per latent up to the last that fires; `pooling` is max or mean."""
        if not self.parts:
            return csr_array((len(self.tokens), 1), dtype=np.float32)
        if len(self.parts) > 1:
            pairs = pl.concat(self.parts).group_by("image", "latent", maintain_order=True)
            self.parts = [pairs.agg(pl.max("largest"), pl.sum("total"), pl.sum("count"))]
        image, latent, largest, total, count = (column.to_numpy() for column in self.parts[0].sort("image", "latent"))
        n = self.tokens[image]
        largest = np.where(count < n, np.maximum(largest, 0), largest)  # the code of a silent token is 0
        value = (total / n).astype(np.float32) if pooling == "mean" else largest
        return codes_matrix(image, latent, value, len(self.tokens))


def codes_matrix(
    row: Int[np.ndarray, " nnz"], latent: Int[np.ndarray, " nnz"], value: Float32[np.ndarray, " nnz"], n_rows: int
) -> csr_array:
    """Codes as a sparse matrix with columns up to the last latent that fires."""
    width = int(latent.max()) + 1 if len(latent) else 1
    codes = csr_array((value, (row.astype(np.int32), latent.astype(np.int32))), shape=(n_rows, width))
    codes.eliminate_zeros()
    return codes


def pad_columns(a: csr_array, b: csr_array) -> tuple[csr_array, csr_array]:
    """Both, padded or cut to the last column that is non-zero in either."""
    width = max(int(m.indices.max(initial=0)) for m in (a, b)) + 1
    a, b = (csr_array((m.data, m.indices, m.indptr), shape=(len(m.indptr) - 1, width)) for m in (a, b))
    return a, b


def sample_evenly(group: Int[np.ndarray, " n"], most: int, seed: int) -> Int64[np.ndarray, " drawn"]:
    """Ascending indices of `most` elements, equally many of every group (within one), or all of a smaller group.

    >>> sample_evenly(np.array([0, 0, 0, 0, 0, 0, 5, 7]), 4, seed=0).tolist()[-2:]
    [6, 7]
    """
    order = np.random.default_rng(seed).permutation(len(group))
    by_group = order[np.argsort(group[order], kind="stable")]
    starts = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    rank = np.empty(len(group), np.int64)  # random rank of each element within its group
    rank[by_group] = np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))
    return np.sort(order[np.argsort(rank[order], kind="stable")[:most]])


BLOCK = 1 << 16  # tokens whose labels are read at a time


@dataclass(frozen=True)
class Rows:
    """Codes and labels of training or validation rows: tokens or images."""

    codes: csr_array
    labels: Int64[np.ndarray, " rows"] | Bool[np.ndarray, "rows classes"]
    cluster: Int64[np.ndarray, " rows"]  # numbers of images, or of groups of images (Split.cluster)

    def of_class(self, number: int) -> Bool[np.ndarray, " rows"]:
        """Which rows are of a class."""
        return self.labels == number if self.labels.ndim == 1 else self.labels[:, number]


@dataclass(frozen=True)
class View:
    """The data of one dictionary at one level, with one variant of the labels; `pooling` is None for tokens."""

    member: str
    labels: str
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
        spans = select(split.store.tokens_per_image(split.layer), images, split.store.role_slice(split.tokens))
        span, token = positions(spans)
        example = spans.example[span]
        blocks = [slice(start, start + BLOCK) for start in range(0, len(token), BLOCK)]
        counted = [split.token_info(TRUE, example[block], token[block]).counted.numpy() for block in blocks]
        kept = np.concatenate(counted)
        example, token = example[kept], token[kept]
        drawn = sample_evenly(example, most, seed)
        self.key = self._key(example[drawn], token[drawn])
        info = split.token_info(TRUE, example[drawn], token[drawn])
        self.labels, self.cluster = info.labels.numpy(), split.cluster[info.image]
        self.parts: dict[str, list[tuple[np.ndarray, ...]]] = defaultdict(list)

    @staticmethod
    def _key(example: Int[np.ndarray, " tokens"], token: Int[np.ndarray, " tokens"]) -> Int64[np.ndarray, " tokens"]:
        return (example.astype(np.int64) << 32) | token

    def update(self, batch: CodeBatch, _: Mapping[str, TokenInfo]) -> None:
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

    def rows(self, name: str) -> dict[tuple[str | None, str], Rows]:
        """The sample's codes of a dictionary by pooling and labels; they are released."""
        parts = self.parts.pop(name)
        row, latent, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        return {(None, TRUE): Rows(codes_matrix(row, latent, value, len(self.key)), self.labels, self.cluster)}


class ImageSample:
    """A split's images: pooled codes by dictionary, and the classes of their tokens by variant of the labels."""

    def __init__(self, split: Split, n_classes: int, poolings: Sequence[str]):
        self.poolings, self.cluster, n = poolings, split.cluster, len(split.images)
        self.one_class = split.variants[TRUE].exclusive and isinstance(split.variants[TRUE], ImageLabels)
        self.classes = {variant: np.zeros((n, n_classes), bool) for variant in split.variants}
        self.labelled = {variant: np.zeros(n, bool) for variant in split.variants}
        self.pooled: dict[str, PooledCodes] = defaultdict(lambda: PooledCodes(n))

    def update(self, batch: CodeBatch, infos: Mapping[str, TokenInfo]) -> None:
        """Add a batch."""
        for name, codes in batch.codes.items():
            self.pooled[name].update(codes, infos[TRUE].image.numpy())
        for variant, info in infos.items():
            labels, counted, image = (column.numpy() for column in info)
            labels, image, classes = labels[counted], image[counted], self.classes[variant]
            self.labelled[variant][image] = True
            if labels.ndim == 1:
                of_class = labels < classes.shape[1]
                classes[image[of_class], labels[of_class]] = True
            else:
                np.logical_or.at(classes, image, labels)

    @property
    def nbytes(self) -> int:
        """Memory of the codes."""
        return sum(pooled.nbytes for pooled in self.pooled.values())

    def rows(self, name: str) -> dict[tuple[str | None, str], Rows]:
        """Labelled images, by pooling and labels: class numbers where an image has one class; their codes are released."""
        pooled, rows = self.pooled.pop(name), {}
        for pooling in self.poolings:
            codes = pooled.codes(pooling)
            for variant, classes in self.classes.items():
                i = np.flatnonzero(self.labelled[variant])
                labels = classes[i]
                if self.one_class:
                    labels = np.where(labels.any(1), labels.argmax(1), labels.shape[1])
                rows[pooling, variant] = Rows(codes[i], labels, self.cluster[i])
        return rows


def entries(codes: SparseCodes, row: Int[np.ndarray, " tokens"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, latent, value) of the codes of tokens whose row is not -1: int32, int32, float32."""
    offsets, latents, values = (part.cpu().numpy() for part in codes)
    rows = np.repeat(row, np.diff(offsets))
    kept = (rows >= 0) & (values != 0)
    return rows[kept], latents[kept].astype(np.int32), values[kept].astype(np.float32)


def read_views(
    settings: SparseSettings, data: LabelledData, sources: Sequence[Source], references: Source | None = None
) -> tuple[int, Iterator[View]]:
    """Every dictionary at every level, those of `references` of images alone, and how many these are, after one read.

    ValueError where codes exceed `budget_gib`.
    """
    levels = [level for level in ("token", "image") if level in settings.levels]
    sources = [*sources, *([references] if references else [])]
    levels_of = {name: levels for source in sources for name in source.names}
    levels_of |= {name: ["image"] for name in (references.names if references else ())}
    samples: dict[tuple[str, str], TokenSample | ImageSample] = {}
    for split in data.splits:
        if "token" in levels:
            samples["token", split.name] = TokenSample(split, settings.tokens, settings.seed)
        if "image" in levels:
            samples["image", split.name] = ImageSample(split, len(data.names), settings.pooling)
    for split, _, batch, _ in batches(data.splits, sources, "Codes for sparse probes", {}):
        infos = {variant: split.token_info(variant, batch.example, batch.token) for variant in split.variants}
        for level in levels_of[next(iter(batch.codes))]:
            samples[level, split.name].update(batch, infos)
        if sum(sample.nbytes for sample in samples.values()) > settings.budget_gib * 2**30:
            raise ValueError(
                f"sparse.budget_gib={settings.budget_gib}: the codes take more; raise it, probe fewer dictionaries at a "
                "time, lower sparse.tokens, or keep the largest codes alone (latent_topk)."
            )
    of_level = {"token": 1, "image": len(settings.pooling) * len(data.splits[0].variants)}
    return sum(of_level[level] for levels in levels_of.values() for level in levels), views(samples, levels_of)


def views(
    samples: Mapping[tuple[str, str], TokenSample | ImageSample], levels_of: Mapping[str, Sequence[str]]
) -> Iterator[View]:
    """The samples, which are released one after the other, by dictionary and level."""
    for name, levels in levels_of.items():
        for level in levels:
            train, val = (samples[level, split].rows(name) for split in ("train", "val"))
            for pooling, variant in train:
                yield View(name, variant, level, pooling, train[pooling, variant], val[pooling, variant])
