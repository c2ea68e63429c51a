"""One linear probe in training: its parameters, the best ones so far, and early stopping."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.ops.sparse import SparseCodes, decode_sparse
from saev.training.linear.inputs import Features


class ProbeSpec(NamedTuple):
    """A point of the grid."""

    input: str
    lr: float
    weight_decay: float

    @property
    def name(self) -> str:
        """A unique name in the grid."""
        return f"{self.input},lr={self.lr:g},weight_decay={self.weight_decay:g}"


def grid(inputs: Sequence[str], lrs: Sequence[float], weight_decays: Sequence[float]) -> list[ProbeSpec]:
    """All combinations, each once."""
    return [ProbeSpec(*point) for point in dict.fromkeys(product(inputs, map(float, lrs), map(float, weight_decays)))]


class Probe(nn.Module):
    """logits = features @ weight + bias, starting from weights of 0 and the given bias.

    It stops after `patience` epochs without a lower validation loss; `best_*` are the parameters with the lowest one. `failed`:
    the loss is not finite, e.g. because of a too large step.
    """

    best_weight: Float[Tensor, "width classes"]
    best_bias: Float[Tensor, " classes"]

    def __init__(self, spec: ProbeSpec, width: int, bias: Float[Tensor, " classes"]):
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.zeros(width, len(bias)))
        self.bias = nn.Parameter(bias.clone())
        self.register_buffer("best_weight", self.weight.detach().clone())
        self.register_buffer("best_bias", bias.clone())
        self.epoch, self.best_epoch, self.best_loss = 0, 0, math.inf
        self.stopped, self.failed = False, False

    def forward(self, x: Features) -> Float[Tensor, "batch classes"]:
        if isinstance(x, SparseCodes):
            return decode_sparse(x, self.weight, "sparse") + self.bias
        return x @ self.weight + self.bias

    def groups(self) -> list[dict[str, Any]]:
        """The two parameter groups: the bias has no weight decay."""
        decay = self.spec.weight_decay
        return [
            {"params": [self.weight], "lr": self.spec.lr, "weight_decay": decay},
            {"params": [self.bias], "lr": self.spec.lr, "weight_decay": 0.0},
        ]

    @torch.no_grad()
    def end_epoch(self, loss: float, patience: int) -> None:
        """Record the validation loss of the epoch that has ended; keep the parameters if it is the lowest."""
        self.epoch += 1
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self.epoch
            self.best_weight.copy_(self.weight)
            self.best_bias.copy_(self.bias)
        self.failed = not math.isfinite(loss)
        self.stopped = self.failed or self.epoch - self.best_epoch >= patience

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the best parameters; the initial ones where no epoch has ended."""
        self.weight.copy_(self.best_weight)
        self.bias.copy_(self.best_bias)

    def get_extra_state(self) -> dict[str, Any]:
        """The part of a checkpoint that is not tensors."""
        return {key: getattr(self, key) for key in ("epoch", "best_epoch", "best_loss", "stopped", "failed")}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, key, value)
