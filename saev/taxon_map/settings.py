"""Settings of `saev.map_latents`, with their defaults and bounds; conf/map.yaml explains each for the command line."""

import dataclasses
from typing import Literal

from saev.settings import bounded, check, shown

CLUSTER = "cluster"


@dataclasses.dataclass(frozen=True)
class MapSettings:
    """Which images and latents are compared, and the size of the heat map."""

    rows: tuple[str, ...] = ()  # columns from the highest rank to the lowest, e.g. family, genus, species; or cluster
    where: str | None = None  # conditions that the images fulfil: `view=dorsal,year>=1990`
    tokens: Literal["patches", "cls", "special", "all"] | None = None  # None: those each dictionary was trained on
    pool: Literal["max", "mean", "top3"] = "max"  # of a latent's codes over the tokens of an image
    threshold: float = bounded(0.0, at_least=0, below=1)  # a latent fires above this fraction of its largest code
    min_images: int = bounded(3, at_least=1)  # latents that fire on fewer are left out
    group: str | None = (
        None  # column of examples.parquet or taxonomy: its images stay together in halves and permutations
    )

    permutations: int = bounded(200, at_least=0)  # of the images' labels, for the null of single latents
    n_coalition: int = bounded(4, at_least=0)  # latents of a coalition, at most; 0: no coalitions
    searches: int = bounded(40, at_least=0)  # for coalitions with permuted labels
    seed: int = bounded(0, at_least=0)  # of permutations, halves and sampled images

    max_images: int = bounded(2000, at_least=2)  # rows of the heat map
    per_node: int | None = bounded(
        None, at_least=1
    )  # of each node of the lowest rank; None: as many as max_images allows
    max_latents: int = bounded(4000, at_least=2)  # columns of the heat map, and candidates for coalitions
    n_clusters: int = bounded(12, at_least=2)  # where rows=cluster

    batch_size: int = bounded(4096, at_least=1)  # tokens

    def __post_init__(self):
        check(self)
        if not self.rows or len({*self.rows}) < len(self.rows):
            raise ValueError(
                f"rows={shown(self.rows)}: name different columns from the highest rank to the lowest, rows=[family,genus], "
                "or rows=cluster."
            )
        if CLUSTER in self.rows and len(self.rows) > 1:
            raise ValueError(
                f"rows={shown(self.rows)}: clusters have no ranks: give rows=cluster alone, or columns alone."
            )
