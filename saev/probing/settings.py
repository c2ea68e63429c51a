"""Settings of `saev.probe`, with their defaults and bounds; conf/probe.yaml explains each for the command line."""

import dataclasses
from typing import Literal

from saev.settings import bounded, check, shown

Weights = Literal["none", "balanced"]
Level = Literal["token", "image"]
Pooling = Literal["max", "mean"]
Selection = Literal["l1", "greedy"]


@dataclasses.dataclass(frozen=True)
class SparseSettings:
    """Probes on several latents together, fitted by scikit-learn; none while `levels` is empty."""

    levels: tuple[Level, ...] = ()
    k: tuple[int, ...] = bounded((1, 2, 4, 8, 16), at_least=1)  # latents per class
    selection: Selection = "l1"  # l1: regularisation path; greedy: forward selection
    candidates: int = bounded(8, at_least=1)  # greedy: latents refitted at each step
    tokens: int = bounded(50_000, at_least=2)  # of training, and of validation, sampled evenly from the images
    pooling: tuple[Pooling, ...] = ("max", "mean")  # of an image's tokens, at the image level
    ridges: tuple[float, ...] = bounded((0.01, 0.1, 1.0), above=0)  # image level: penalties of a probe on all latents
    budget_gib: float = bounded(8, above=0)  # memory for the codes
    seed: int = 0

    def __post_init__(self):
        check(self, "sparse.")
        if len({*self.k}) < len(self.k):
            raise ValueError(f"sparse.k={shown(self.k)}: must be different numbers.")
        if not self.pooling:
            raise ValueError("sparse.pooling=[]: choose max, mean or both.")
        if self.levels and not self.k and not (self.ridges and "image" in self.levels):
            raise ValueError(
                "sparse.k=[] leaves nothing to fit: give numbers of latents, or levels=[image] and ridges."
            )


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """The tokens and their labels, the 1-D probes of all (latent, class) pairs, and the statistics that are reported."""

    tokens: Literal["patches", "cls", "special", "all"] = "patches"  # special: cls and registers
    val_fraction: float = bounded(0.3, above=0, below=1)  # of the images, held out unless `validation` is given

    group: str | None = None  # column of examples.parquet: images of one group (a video, a specimen) are on one side

    labels: str = "patches"  # patches | a column of examples.parquet | the path of a csv or tsv table
    classes: tuple[int | str, ...] | None = (
        None  # names, or ids of patch labels; None: those that occur in training images
    )
    ignore_labels: tuple[int | str, ...] = ()  # patch labels whose tokens are left out
    min_labelled: float = bounded(0.5, at_least=0, at_most=1)  # of the images must have a row in a table of labels
    compat: Literal["strict", "saev"] = "strict"  # saev: tokens without a label count, as class 0

    latent_topk: int | None = bounded(
        None, at_least=1, hint="null: all codes"
    )  # at most the k largest codes of a token
    weights: Weights = "none"  # balanced: a class and all other tokens weigh the same
    ridge: float = bounded(1e-8, at_least=0)  # on standardised codes: keeps separable pairs finite
    mantissa_bits: int = bounded(10, at_least=0, at_most=23)  # of a code in the statistics of all pairs
    budget_gib: float = bounded(12, above=0)  # memory for these statistics in each split, all dictionaries together
    top: int = bounded(5, at_least=1)  # best latents listed for each class
    pairs: bool = False  # also write every (latent, class) pair
    nulls: tuple[Literal["permuted"], ...] = ("permuted",)  # permuted: each image's labels from another image
    bootstrap: int = bounded(1000, at_least=0)  # resamples of the validation images, for 95 % intervals
    against: str | None = None  # the dictionary or kind of baseline that all others are compared with
    permutations: int = bounded(1000, at_least=0)  # of the two dictionaries, image by image, for p
    seed: int = bounded(0, at_least=0)  # of permutations and resamples

    sparse: SparseSettings = dataclasses.field(default_factory=SparseSettings)
    batch_size: int = bounded(4096, at_least=1)  # tokens
    save_every_s: float = bounded(120, at_least=0)  # seconds between checkpoints

    def __post_init__(self):
        check(self)
        if self.against is not None and not self.bootstrap:
            raise ValueError(
                f"against={self.against} with bootstrap=0: differences need resamples; set bootstrap=1000."
            )
        if self.labels == "patches":
            if self.compat == "saev" and 0 in self.ignore_labels:
                raise ValueError(
                    "compat=saev counts tokens without a label as class 0, ignore_labels leaves class 0 out: drop one of them."
                )
            return
        if self.ignore_labels:
            raise ValueError(
                f"ignore_labels={shown(self.ignore_labels)} is for labels=patches; leave it out with labels={self.labels}."
            )
        if self.compat == "saev":
            raise ValueError(f"compat=saev is for labels=patches; leave it out with labels={self.labels}.")
