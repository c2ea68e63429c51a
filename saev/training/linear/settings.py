"""Settings of a grid of linear probes; conf/linear_probe/default.yaml explains each for the command line."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from saev.settings import bounded, check


@dataclasses.dataclass(frozen=True)
class LinearProbeSettings:
    """A probe per input, learning rate and weight decay, all fitted in the same passes."""

    inputs: tuple[str, ...] = ("raw",)  # raw (normalised activations), a dictionary's name (its codes), all
    lrs: tuple[float, ...] = bounded((1e-3, 3e-3), above=0)  # AdamW
    weight_decays: tuple[float, ...] = bounded((1e-2, 1.0), at_least=0)  # biases do not decay
    weights: Literal["none", "balanced"] = "none"  # of classes in the loss; balanced: rare ones count as common ones
    normalise: Literal["none", "scalar", "standardise"] = "scalar"  # of raw activations
    batch_size: int | None = bounded(
        None, at_least=1
    )  # tokens; None: 4096, or an eighth of the training tokens if fewer
    max_epochs: int = bounded(50, at_least=1)
    patience: int = bounded(3, at_least=1)  # epochs without a lower validation loss after which a probe stops
    seed: int = 0  # of the order of tokens
    map_size: tuple[int, ...] | None = bounded(None, at_least=1)  # (height, width) of maps; None: of the image
    trainer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"accelerator": "auto", "devices": 1})

    def __post_init__(self):
        check(self, "linear_probe.")
        for key in ("lrs", "weight_decays"):
            if not getattr(self, key):
                raise ValueError(f"linear_probe.{key}=[]: give at least one number.")
        if self.map_size is not None and len(self.map_size) != 2:
            raise ValueError(f"linear_probe.map_size={list(self.map_size)}: give [height, width].")
