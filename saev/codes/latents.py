"""Per-latent statistics of the encoded tokens, additive over shards, and the table latents.parquet."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int, Int32, Int64
from safetensors.numpy import load_file, save

from saev.codes.top_examples import NONE, TopExamples
from saev.files import write_atomically
from saev.metrics import functional as F

if TYPE_CHECKING:
    import polars as pl

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
