"""The codes that `sparse_probing` learns from, of all dictionaries in one read: a sample of tokens, and images' pooled codes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int64
from scipy.sparse import csr_array

from saev.ops.sparse import SparseCodes
from saev.probing.data.sources import Batch, Facts, Source, Split
from saev.probing.data.splits import TRUE, Labelled
from saev.probing.passes import walk
from saev.probing.sparse.pooling import PooledCodes, sample_evenly, table
from saev.shards.selection import positions, select

BLOCK = 1 << 16  # tokens whose labels are looked up together


@dataclass(frozen=True)
class Side:
    """Codes and labels of training or validation rows: tokens or images."""

    codes: csr_array
    labels: Int64[np.ndarray, " rows"] | Bool[np.ndarray, "rows classes"]

    def of_class(self, number: int) -> Bool[np.ndarray, " rows"]:
        """Which rows are of a class."""
        return self.labels == number if self.labels.ndim == 1 else self.labels[:, number]


@dataclass(frozen=True)
class View:
    """What one dictionary is probed on at one level; `pooling` is None for tokens."""

    member: str
    level: str
    pooling: str | None
    train: Side
    val: Side


class TokenSample:
    """At most `most` labelled tokens of a split, as many of each image as of any other, and their codes by dictionary.

    Of a split with more images than that, as many images are drawn first. Memory: 12 bytes per code that is not 0.
    """

    def __init__(self, split: Split, most: int, seed: int):
        images = split.images
        if len(images) > most:
            images = np.sort(np.random.default_rng(seed).choice(images, most, replace=False))
        runs = select(split.store.tokens_per_image(split.layer), images, split.store.role_slice(split.tokens))
        run, token = positions(runs)
        example = runs.example[run]
        blocks = [slice(at, at + BLOCK) for at in range(0, len(token), BLOCK)]
        counted = np.concatenate([split.facts(TRUE, example[some], token[some]).counted.numpy() for some in blocks])
        example, token = example[counted], token[counted]
        drawn = sample_evenly(example, most, seed)
        self.key = self._key(example[drawn], token[drawn])
        self.labels = split.facts(TRUE, example[drawn], token[drawn]).labels.numpy()
        self.parts: dict[str, list[tuple[np.ndarray, ...]]] = defaultdict(list)

    @staticmethod
    def _key(example: Int[np.ndarray, " tokens"], token: Int[np.ndarray, " tokens"]) -> Int64[np.ndarray, " tokens"]:
        return (example.astype(np.int64) << 32) | token

    def update(self, batch: Batch, _: Facts) -> None:
        """Keep what of a batch is in the sample."""
        key = self._key(batch.example, batch.token)
        place = np.searchsorted(self.key, key).clip(max=len(self.key) - 1)
        place = np.where(self.key[place] == key, place, -1).astype(np.int32)
        for name, codes in batch.codes.items():
            self.parts[name].append(pairs(codes, place))

    @property
    def nbytes(self) -> int:
        """Memory of the codes."""
        return sum(array.nbytes for parts in self.parts.values() for part in parts for array in part)

    def sides(self, name: str) -> dict[str | None, Side]:
        """The sample's codes of a dictionary."""
        parts = self.parts.pop(name)
        row, latent, value = (np.concatenate(each) for each in zip(*parts, strict=True))
        return {None: Side(table(row, latent, value, len(self.key)), self.labels)}


class ImageSample:
    """A split's images: pooled codes by dictionary, and the classes that their tokens have."""

    def __init__(self, split: Split, n_classes: int, poolings: Sequence[str]):
        self.poolings, n = poolings, len(split.images)
        self.classes, self.known = np.zeros((n, n_classes), bool), np.zeros(n, bool)
        self.pooled: dict[str, PooledCodes] = defaultdict(lambda: PooledCodes(n))

    def update(self, batch: Batch, facts: Facts) -> None:
        """Add a batch."""
        labels, counted, image = (each.numpy() for each in facts)
        for name, codes in batch.codes.items():
            self.pooled[name].update(codes, image)
        labels, image = labels[counted], image[counted]
        self.known[image] = True
        if labels.ndim == 1:
            self.classes[image, labels] = True
        else:
            np.logical_or.at(self.classes, image, labels)

    @property
    def nbytes(self) -> int:
        """Memory of the codes."""
        return sum(pooled.nbytes for pooled in self.pooled.values())

    def sides(self, name: str) -> dict[str | None, Side]:
        """Labelled images, by pooling."""
        pooled, known = self.pooled.pop(name), np.flatnonzero(self.known)
        return {pooling: Side(pooled.codes(pooling)[known], self.classes[known]) for pooling in self.poolings}


def pairs(codes: SparseCodes, place: Int[np.ndarray, " tokens"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, latent, value) of the codes of tokens that have a place (not -1): int32, int32, float32."""
    offsets, latents, values = (part.cpu().numpy() for part in codes)
    row = np.repeat(place, np.diff(offsets))
    kept = (row >= 0) & (values != 0)
    return row[kept], latents[kept].astype(np.int32), values[kept].astype(np.float32)


def read(settings: Mapping[str, Any], data: Labelled, sources: Sequence[Source]) -> Iterator[View]:
    """Every dictionary at every level of `settings`, after one read. ValueError where codes exceed `budget_gib`."""
    levels = [level for level in ("token", "image") if level in settings["levels"]]
    samples: dict[tuple[str, str], TokenSample | ImageSample] = {}
    for split in data.splits:
        if "token" in levels:
            samples["token", split.name] = TokenSample(split, settings["tokens"], settings["seed"])
        if "image" in levels:
            samples["image", split.name] = ImageSample(split, len(data.names), settings["pooling"])
    for split, _, batch, _ in walk(data.splits, sources, "Codes for sparse probes", {}):
        facts = split.facts(TRUE, batch.example, batch.token)
        for level in levels:
            samples[level, split.name].update(batch, facts)
        held = sum(sample.nbytes for sample in samples.values())
        if held > settings["budget_gib"] * 2**30:
            raise ValueError(
                f"sparse.budget_gib={settings['budget_gib']}: the codes take more; raise it, probe fewer dictionaries at a "
                "time, lower sparse.tokens, or keep the largest codes alone (latent_topk)."
            )
    train, val = (split.name for split in data.splits)
    for name in [name for source in sources for name in source.names]:
        for level in levels:
            ours, theirs = samples[level, train].sides(name), samples[level, val].sides(name)
            for pooling in ours:
                yield View(name, level, pooling, ours[pooling], theirs[pooling])
