"""Settings of `saev.traits`, with their defaults and bounds; conf/traits.yaml explains each for the command line."""

import dataclasses
from typing import Literal

from saev.settings import bounded, check

Pool = Literal["max", "mean", "top3"]
Baseline = Literal["random_vectors", "kmeans", "pca", "semi_nmf", "untrained"]


@dataclasses.dataclass(frozen=True)
class TraitsSettings:
    """What is ranked by what, the grid of sizes, and the comparisons beside it."""

    tokens: Literal["patches", "cls", "special", "all"] = "patches"  # special: cls and registers
    pool: Pool = "max"  # of a prototype's scores over the tokens of an image; top3: mean of the three largest
    split: str | None = (
        None  # column of examples.parquet that says `train` of training images; the others are for the test
    )
    test_fraction: float = bounded(0.5, above=0, below=1)  # of the images, where neither `test` nor `split` says
    group: str | None = None  # column of examples.parquet: its images are on one side, and are resampled together
    sample_tokens: int = bounded(20_000, at_least=2)  # unit=token: of the training, and of the test images

    n_prototypes: tuple[int, ...] = bounded((128, 512, 2048, 8192, 32768), at_least=1)  # and all
    n_train: tuple[int, ...] = bounded((16, 64, 256, 1024, 4096), at_least=2)  # units to choose on; and all
    seeds: tuple[int, ...] = bounded((0, 1, 2), at_least=0)  # orders of prototypes and training units

    baselines: tuple[Baseline, ...] = ("random_vectors",)  # fitted to the activations of the training images
    baseline_size: int | None = bounded(
        None, at_least=1
    )  # their prototypes; None: as the largest dictionary has, or 1024
    channels: bool = True  # also rank by the channels of raw activations, each with both signs
    supervised: bool = True  # also fit logistic regressions on pooled raw activations
    several: tuple[int, ...] = bounded((2, 4, 8), at_least=2)  # also logistic regressions on so many best prototypes
    ridges: tuple[float, ...] = bounded(
        (0.001, 0.01, 0.1, 1.0, 10.0), above=0
    )  # of `supervised`, chosen on training units

    against: str = (
        "random_vectors"  # the method, or kind of method, that all others are compared with, where there is one
    )
    permutations: int = bounded(1000, at_least=0)  # of the signs of the traits' differences, for p
    compat: Literal["strict", "saev"] = "strict"  # saev: the published protocol
    nulls: tuple[Literal["permuted"], ...] = ("permuted",)  # permuted: each unit's traits from another unit
    bootstrap: int = bounded(1000, at_least=0)  # resamples of the test images, for 95 % intervals
    seed: int = bounded(0, at_least=0)  # of permutations, resamples, sampled tokens and baselines

    batch_size: int = bounded(4096, at_least=1)  # tokens

    def __post_init__(self):
        check(self)
        for name in ("n_prototypes", "n_train", "seeds"):
            values = getattr(self, name)
            if (name == "seeds" and not values) or len({*values}) < len(values):
                raise ValueError(
                    f"{name}={list(values)}: must be different numbers"
                    + (", at least one." if name == "seeds" else ".")
                )
