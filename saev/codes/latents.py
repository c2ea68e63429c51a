"""What each latent did on the tokens encoded: additive statistics, and the table they end in."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float32, Float64, Int, Int64
from safetensors.torch import load_file, save
from torch import Tensor

from saev.codes.top_examples import NOBODY, TopExamples
from saev.metrics import functional as F
from saev.ops.sparse import SparseCodes
from saev.shards.manifest import write_atomically

if TYPE_CHECKING:
    import polars as pl

TOP = 16  # images of each latent


class LatentStatistics:
    """Per latent its firings, the sum and the largest of its codes, and its top images; before codes are rounded."""

    firings: Int64[Tensor, " n_latents"]
    value_sum: Float64[Tensor, " n_latents"]
    largest: Float32[Tensor, " n_latents"]  # -inf where it never fires

    def __init__(self, n_latents: int, n: int = TOP, device: torch.device | str = "cpu"):
        self.firings = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.value_sum = torch.zeros(n_latents, dtype=torch.float64, device=device)
        self.largest = torch.full((n_latents,), -torch.inf, device=device)
        self.top = TopExamples(n_latents, n, device)

    def update(self, codes: SparseCodes, example: Int[Tensor, " rows"], token: Int[Tensor, " rows"]) -> None:
        """Add a batch: its codes, and of each row the image and the number of the token."""
        latents, values, rows = codes.latents.long(), codes.values.float(), codes.rows()
        self.firings += codes.firings(len(self.firings))
        self.value_sum.index_add_(0, latents, values.double())
        self.largest.scatter_reduce_(0, latents, values, "amax")
        self.top.update(latents, values, example[rows], token[rows])

    def merge(self, other: "LatentStatistics") -> None:
        """Add those of other images."""
        self.firings += other.firings
        self.value_sum += other.value_sum
        self.largest = torch.maximum(self.largest, other.largest)
        self.top.merge(other.top)

    def save(self, path: Path) -> None:
        """Write as safetensors in one step."""
        top = {"top_value": self.top.value, "top_example": self.top.example, "top_token": self.top.token}
        own = {"firings": self.firings, "value_sum": self.value_sum, "largest": self.largest}
        write_atomically(path, save({name: tensor.cpu() for name, tensor in {**own, **top}.items()}))

    @classmethod
    def load(cls, path: Path) -> "LatentStatistics":
        """What `save` wrote."""
        found = load_file(path)
        n_latents, n = found["top_value"].shape
        statistics = cls(n_latents, n)
        statistics.firings, statistics.value_sum = found["firings"], found["value_sum"]
        statistics.largest, top = found["largest"], statistics.top
        top.value, top.example, top.token = found["top_value"], found["top_example"], found["top_token"]
        return statistics

    def table(self, n_tokens: int) -> "pl.DataFrame":
        """A row per latent: latent, firings, frequency (share of tokens), mean_value (over firings) and max_value (NaN where
        it never fires), and as lists, best first, top_value, top_example and top_token (within the image)."""
        import polars as pl  # heavy, needed once

        silent = self.firings == 0
        lengths = (self.top.example != NOBODY).sum(1).tolist()
        lists = {
            f"top_{name}": [row[:n] for row, n in zip(getattr(self.top, name).tolist(), lengths, strict=True)]
            for name in ("value", "example", "token")
        }
        return pl.DataFrame(
            {
                "latent": torch.arange(len(self.firings)).numpy(),
                "firings": self.firings.numpy(),
                "frequency": F.frequency_compute(self.firings, torch.tensor(n_tokens)).numpy(),
                "mean_value": F.mean_value_compute(self.value_sum, self.firings).numpy(),
                "max_value": torch.where(silent, torch.nan, self.largest).numpy(),
                **lists,
            },
            schema_overrides={
                "top_value": pl.List(pl.Float32), "top_example": pl.List(pl.Int64), "top_token": pl.List(pl.Int64)
            },
        )  # fmt: skip
