"""Per-latent statistics of the encoded tokens, additive over shards, and the table latents.parquet."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64
from safetensors.numpy import load_file, save

from saev.files import write_atomically
from saev.metrics import functional as F

if TYPE_CHECKING:
    import polars as pl

NONE = -1  # in `example` and `token`: the latent fires on fewer images
BUFFER = 1 << 17  # pairs that are collected before they are merged, so that sorts are few


class TopExamples:
    """Per latent the n images with the largest code above 0 on one of their tokens, best first.

    Of equal values the one with the lower image number comes first, and within an image the token seen first: the
    result does not depend on how tokens were split into batches, as long as they come in order.

    `floor`, per latent, is a value that n images of lower numbers reach: pairs that do not exceed it are left out, so
    there may be fewer than n. After the first images few pairs exceed the kept ones: nearly all work is one comparison a pair.
    """

    value: Float32[np.ndarray, "n_latents n"]
    example: Int64[np.ndarray, "n_latents n"]
    token: Int64[np.ndarray, "n_latents n"]

    def __init__(self, n_latents: int, n: int, floor: Float32[np.ndarray, " n_latents"] | None = None):
        self.n = n
        self.value = np.zeros((n_latents, n), np.float32)
        self.example = np.full((n_latents, n), NONE, np.int64)
        self.token = np.full((n_latents, n), NONE, np.int64)
        self.least = np.zeros(n_latents, np.float32) if floor is None else floor.copy()
        self.pending: list[tuple[np.ndarray, ...]] = []  # (latent, value, example, token)

    def update(
        self,
        latent: Int[np.ndarray, " pairs"],
        value: Float32[np.ndarray, " pairs"],
        example: Int[np.ndarray, " pairs"],
        token: Int[np.ndarray, " pairs"],
    ) -> None:
        """Add pairs of latent and value, with the image and the token (within the image) of each."""
        better = np.flatnonzero(value > self.least[latent])
        self.pending.append(tuple(field[better] for field in (latent, value, example, token)))
        if sum(len(pairs[0]) for pairs in self.pending) > BUFFER:
            self.settle()

    def settle(self) -> None:
        """Merge the collected pairs; to be called before anything is read."""
        if not self.pending:
            return
        latent, value, example, token = (np.concatenate(fields) for fields in zip(*self.pending, strict=True))
        self.pending = []
        touched = np.zeros(len(self.value), bool)
        touched[latent] = True
        before, *kept = self._kept(touched)
        latent = np.concatenate([before, latent.astype(np.int64)])
        value, example, token = (np.concatenate(pair) for pair in zip(kept, (value, example, token), strict=True))
        order, rank = ranked(latent, value, example)
        order, rank = order[rank < self.n], rank[rank < self.n]
        entries = latent[order], rank
        self.value[entries], self.example[entries], self.token[entries] = value[order], example[order], token[order]
        self.least = np.maximum(self.least, self.value[:, -1])

    def merge(self, other: "TopExamples") -> None:
        """Add the top images among images of higher numbers; `other` has settled."""
        self.update(*other._kept(np.ones(len(other.value), bool)))

    def _kept(self, chosen: Bool[np.ndarray, " n_latents"]) -> tuple[np.ndarray, ...]:
        """(latent, value, example, token) of the kept pairs of the chosen latents."""
        entries = np.nonzero((self.example != NONE) & chosen[:, None])
        return entries[0], self.value[entries], self.example[entries], self.token[entries]


def ranked(
    latent: Int64[np.ndarray, " pairs"], value: Float32[np.ndarray, " pairs"], example: Int64[np.ndarray, " pairs"]
) -> tuple[Int64[np.ndarray, " best"], Int64[np.ndarray, " best"]]:
    """The best pair of each latent and image: its index, by latent and descending value; and its rank in its latent.

    >>> ranked(np.array([5, 5, 5]), np.array([1, 2, 3], np.float32), np.array([7, 7, 8]))
    (array([2, 1]), array([0, 1]))
    """
    group = latent * (int(example.max(initial=0)) + 1) + example
    order = np.lexsort((-value, group))  # stable, so of equal values the token seen first comes first
    order = order[np.diff(group[order], prepend=-1) != 0]
    order = order[np.lexsort((-value[order], latent[order]))]  # and the image of the lower number
    by_latent = latent[order]
    return order, np.arange(len(order)) - np.searchsorted(by_latent, by_latent)


TOP = 16  # images of each latent


class LatentStatistics:
    """Per latent its firings, the sum and the largest of its codes, and its top images; of codes before they are rounded.

    `floor`: see `TopExamples`.
    """

    firings: Int64[np.ndarray, " n_latents"]
    value_sum: Float64[np.ndarray, " n_latents"]
    largest: Float32[np.ndarray, " n_latents"]  # -inf where it never fires

    def __init__(self, n_latents: int, n: int = TOP, floor: Float32[np.ndarray, " n_latents"] | None = None):
        self.firings = np.zeros(n_latents, np.int64)
        self.value_sum = np.zeros(n_latents)
        self.largest = np.full(n_latents, -np.inf, np.float32)
        self.top = TopExamples(n_latents, n, floor)

    def update(
        self,
        offsets: Int64[np.ndarray, " rows_and_1"],
        latents: Int32[np.ndarray, " nnz"],
        values: Float32[np.ndarray, " nnz"],
        example: Int[np.ndarray, " rows"],
        token: Int[np.ndarray, " rows"],
    ) -> None:
        """Add a batch of codes in CSR, none of them 0, and the image and the token (within the image) of each row."""
        lengths = np.diff(offsets)
        self.firings += np.bincount(latents, minlength=len(self.firings))
        self.value_sum += np.bincount(latents, values, minlength=len(self.firings))
        np.maximum.at(self.largest, latents, values)
        self.top.update(latents, values, np.repeat(example, lengths), np.repeat(token, lengths))

    def merge(self, other: "LatentStatistics") -> None:
        """Add the statistics of images with higher numbers."""
        self.firings += other.firings
        self.value_sum += other.value_sum
        self.largest = np.maximum(self.largest, other.largest)
        self.top.merge(other.top)

    def save(self, path: Path) -> None:
        """Write as safetensors in one step."""
        self.top.settle()
        top = {"top_value": self.top.value, "top_example": self.top.example, "top_token": self.top.token}
        sums = {"firings": self.firings, "value_sum": self.value_sum, "largest": self.largest}
        write_atomically(path, save({**sums, **top}))

    @classmethod
    def load(cls, path: Path) -> "LatentStatistics":
        """The statistics that `save` wrote."""
        arrays = load_file(path)
        n_latents, n = arrays["top_value"].shape
        statistics = cls(n_latents, n)
        statistics.firings, statistics.value_sum = arrays["firings"], arrays["value_sum"]
        statistics.largest, top = arrays["largest"], statistics.top
        top.value, top.example, top.token = arrays["top_value"], arrays["top_example"], arrays["top_token"]
        return statistics

    def table(self, n_tokens: int) -> "pl.DataFrame":
        """A row per latent: latent, firings, frequency (fraction of tokens), mean_value (over firings) and max_value (NaN where
        it never fires), and as lists, best first, top_value, top_example and top_token (within the image)."""
        import polars as pl  # heavy, needed once

        self.top.settle()
        firings, sums = torch.from_numpy(self.firings), torch.from_numpy(self.value_sum)
        names = ("value", "example", "token")
        table = pl.DataFrame(
            {
                "latent": np.arange(len(firings)),
                "firings": self.firings,
                "frequency": F.frequency_compute(firings, torch.tensor(n_tokens)).numpy(),
                "mean_value": F.mean_value_compute(sums, firings).numpy(),
                "max_value": np.where(self.firings == 0, np.float32("nan"), self.largest),
                **{f"top_{name}": getattr(self.top, name) for name in names},
                "kept": (self.top.example != NONE).sum(1),
            }
        )
        lists = [pl.col(f"top_{name}").arr.to_list().list.head(pl.col("kept")) for name in names]
        return table.with_columns(lists).drop("kept")
