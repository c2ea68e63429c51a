"""Settings of a training run, shared by all members of its bank; what differs between members is `saev.nn.Member`."""

import dataclasses
import math
from typing import Literal

from saev.settings import bounded, check

Tokens = Literal["patches", "cls", "special", "all"]
Normalise = Literal["none", "scalar", "standardise"]


FEW_STEPS = 100  # with fewer a run hardly trains
MOST_TOKENS, MOST_EPOCHS = 100_000_000, 10  # of a run whose n_tokens is not given (docs/log/2026-11-28-epochs.md)


@dataclasses.dataclass(frozen=True)
class StreamSettings:
    """Which tokens a run reads, and in which form."""

    tokens: Tokens = "patches"  # special: cls and registers
    ignore_labels: tuple[int, ...] = ()  # patch labels to leave out; 65535: tokens without a label
    batch_size: int = bounded(16384, at_least=1)  # tokens, over all processes
    subset_tokens: int | None = bounded(None, at_least=1)  # read so many different tokens only
    normalise: Normalise = "scalar"
    data_seed: int = 0  # of the shuffle and the held-out images

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class ProbeSample:
    """Labelled images on which the latents of each member are probed at validations; dataset=None: no probes."""

    dataset: str | None = None  # "train": held-out images of the activations trained on; or another recording
    images: int = bounded(64, at_least=2)
    tokens: int = bounded(16384, at_least=2)

    def __post_init__(self):
        check(self, "probe.")


@dataclasses.dataclass(frozen=True)
class TrainSettings(StreamSettings):
    """The stream, the optimisation and the logging of a bank."""

    # tokens to train on, over as many epochs as that takes; None: 100 M, but at most 10 epochs (`sized`)
    n_tokens: int | None = bounded(None, at_least=1)
    batch_size: int | None = bounded(None, at_least=1)  # tokens, over all processes; None: `batch`
    warmup: float = bounded(
        0.05, at_least=0
    )  # fraction of the run over which the learning rate rises; from 1 on: steps
    decay: float = bounded(0.2, at_least=0, at_most=1)  # fraction of the run over which the learning rate falls to 0
    clip: float = bounded(1.0, above=0, hint="clip=1e9: no clipping")  # largest gradient norm of a member
    products: Literal["auto", "measured", "sparse", "dense", "fused"] = (
        "auto"  # how steps with sparse codes are computed
    )
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    sparsity_warmup: float = bounded(0.05, at_least=0, at_most=1)  # fraction of the run in which the penalty rises
    val_every: int = bounded(1000, at_least=1)  # steps between validations
    log_every: int = bounded(50, at_least=1)  # steps between written metrics
    probe: ProbeSample = dataclasses.field(default_factory=ProbeSample)
    report: bool = True  # write report.html
    keep_checkpoint: bool = False  # of the finished run, which can then be resumed with more tokens

    def sized(self, available: float) -> "TrainSettings":
        """These settings with n_tokens as a number, for a recording of `available` training tokens (inf: not known).

        >>> [TrainSettings().sized(n).n_tokens for n in (300_000, 10**8)], TrainSettings(n_tokens=7).sized(10).n_tokens
        ([3000000, 100000000], 7)
        """
        available = min(available, self.subset_tokens or available)
        chosen = int(min(MOST_TOKENS, max(1, MOST_EPOCHS * available)))
        return self if self.n_tokens is not None else dataclasses.replace(self, n_tokens=chosen)

    @property
    def batch(self) -> int:
        """batch_size, or for None about a thousand steps of 256 to 16384 tokens (docs/log/2026-11-27-defaults.md), fewer where
        there would not be FEW_STEPS steps.

        >>> [TrainSettings(n_tokens=n).batch for n in (6_000, 50_000, 1_000_000, 10_000_000, 100_000_000)]
        [32, 256, 1024, 8192, 16384]
        """
        if self.batch_size is not None:
            return self.batch_size
        n = self.n_tokens or 4_000_000
        least = min(256, 1 << int(math.log2(max(1, n // FEW_STEPS))))
        return max(least, min(16384, 1 << max(0, round(math.log2(n / 1000)))))


@dataclasses.dataclass(frozen=True)
class FitSettings(StreamSettings):
    """What all baselines of a call of `saev.fit` share."""

    device: str = "auto"  # cuda where available; or cpu, cuda, cuda:1
    save_every_s: float = bounded(60, at_least=0)  # seconds between checkpoints
    keep_checkpoint: bool = False  # of the finished fit, which can then be measured again


# keys that may change when a fit is resumed
MAY_DIFFER = (
    "device",
    "save_every_s",
    "keep_checkpoint",
    "datamodule.readers",
    "datamodule.retry_s",
    "datamodule.depth",
)
