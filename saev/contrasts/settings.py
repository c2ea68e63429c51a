"""Settings of `saev.contrast`, with their defaults and bounds; conf/contrast.yaml explains each for the command line."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from saev.settings import bounded, check

Baseline = Literal["random_vectors", "kmeans", "pca", "untrained"]
Condition = str | Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Groups:
    """Which images are compared: those of `a` with those of `b`, or the pairs of a table, or all pairs of a column's values.

    Args:
        a, b: conditions on columns, such as "subspecies=lativitta" (saev/contrasts/conditions.py).
        where: a condition that images of all groups fulfil.
        third: images that are scored and shown beside the two groups, and are never used for choosing: hybrids.
        pairs: a csv or tsv with a row per pair: name, a, b, and where they differ between pairs, where and third.
        by: a column; its values are compared two by two.
        table: a csv or tsv with further columns, joined to the images by `key` (null: its first column).
        key: column of `table` with an image's path, file name or stem, or, where the recording has a column of this name, its values.
        min_images: pairs with a smaller group are named and left out.
    """

    a: Condition = None
    b: Condition = None
    where: Condition = None
    third: Condition = None
    pairs: str | None = None
    by: str | None = None
    table: str | None = None
    key: str | None = None
    min_images: int = bounded(10, at_least=2)

    def __post_init__(self):
        check(self)
        ways = {"a and b": self.a is not None or self.b is not None, "pairs": self.pairs, "by": self.by}
        given = [name for name, value in ways.items() if value]
        if len(given) != 1:
            raise ValueError(
                "no groups are named: give a='column=value' b='column=value', pairs=table.csv, or by=column."
                if not given
                else f"{' and '.join(given)} are given: choose one of them."
            )
        if (self.a is None) != (self.b is None):
            raise ValueError(f"{'b' if self.b is None else 'a'} is not given: a and b are the two groups.")
        if self.by is not None and self.third is not None:
            raise ValueError(f"third={self.third}: by={self.by} has no third group: give a and b, or pairs.")
        for name in ("pairs", "table"):
            file = getattr(self, name)
            if file is not None and not Path(file).is_file():
                raise ValueError(f"{name}={file} is not there: give a csv or tsv file.")
        if self.key is not None and self.table is None:
            raise ValueError(f"key={self.key}: names a column of table=, which is not given.")


@dataclasses.dataclass(frozen=True)
class ContrastSettings:
    """How latents are compared, and with which baselines."""

    tokens: Literal["patches", "cls", "special", "all"] = "patches"  # special: cls and registers
    pool: Literal["max", "mean", "top3"] = "max"  # of a latent's codes over the tokens of an image
    group: str | None = (
        None  # column, e.g. specimen: its images are on one side of every split, and are permuted together
    )
    strata: str | None = None  # column, e.g. view: ranks and permutations are within each of its values

    baselines: tuple[Baseline, ...] = ("random_vectors",)  # fitted to the recording's activations
    baseline_size: int | None = bounded(None, at_least=1)  # their prototypes; None: as the largest dictionary, or 1024
    channels: bool = True  # also compare the channels of raw activations, each with both signs

    permutations: int = bounded(1000, at_least=19)  # of the groups, for p-values
    alpha: float = bounded(0.05, above=0, below=1)  # family-wise error below which a latent counts as separating
    bootstrap: int = bounded(1000, at_least=0)  # resamples of the images or groups, for 95 % intervals; 0: none
    folds: int = bounded(5, at_least=2)  # for thresholds, best latents and classifiers
    compat: Literal["strict", "saev"] = "strict"  # saev: thresholds by the 95th percentile of the other group
    classifier: bool = True  # also fit L1 logistic regressions on all latents together
    seed: int = bounded(0, at_least=0)  # of permutations, resamples, folds and baselines

    shown: int = bounded(8, at_least=1)  # latents of each pair on the page
    images_per_group: int = bounded(8, at_least=1)  # of each latent on the page
    align: Literal["none", "centre_of_mass"] = "none"  # of activation maps before they are averaged

    batch_size: int = bounded(4096, at_least=1)  # tokens

    def __post_init__(self):
        check(self)
