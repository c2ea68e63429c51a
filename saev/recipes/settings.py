"""Settings of the recipes. No torch here: the command line reads types, defaults and bounds from them."""

import dataclasses
from typing import Literal

from saev.settings import bounded, check

MAY_DIFFER = (
    "device",
    "save_every_s",
    "datamodule.readers",
    "datamodule.depth",
)  # keys that may change when a fit is resumed


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """What all baselines of a call of `fit` share."""

    tokens: Literal["patches", "cls", "special", "all"] = "patches"  # special: cls and registers
    ignore_labels: tuple[int, ...] = ()  # patch labels to leave out; 65535: tokens without a label
    batch_size: int = bounded(16384, at_least=1)  # tokens
    subset_tokens: int | None = bounded(None, at_least=1)  # fit on so many different tokens only
    normalise: Literal["none", "scalar", "standardise"] = "scalar"
    data_seed: int = 0  # of the shuffle and the held-out images
    device: str = "auto"  # cuda where available; or cpu, cuda, cuda:1
    save_every_s: float = bounded(60, at_least=0)  # seconds between checkpoints

    def __post_init__(self):
        check(self)
