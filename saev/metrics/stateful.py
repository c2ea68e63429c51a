"""The formulas of `functional` as torchmetrics: sums over batches, reduced over processes, finished in `compute`.

States are float64 sums or int64 counts, so the result does not depend on how the tokens were split into batches or
over processes (integers exactly, floats to the last digits), and no update synchronises the device. Sums are replaced, not
updated in place: results of `compute` must not change with the next update.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import Metric

from saev.metrics import functional as F


class InputMoments(Metric):
    """Count, mean and variation of the evaluated tokens; one serves all members, which see the same tokens."""

    full_state_update = False
    n: Int[Tensor, ""]
    total: Float[Tensor, " d_model"]
    square: Float[Tensor, ""]
    shift: Float[Tensor, " d_model"]

    def __init__(self, shift: Float[Tensor, " d_model"]):
        super().__init__()
        self.register_buffer("shift", shift.detach().double(), persistent=False)
        self.add_state("n", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(len(shift), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("square", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Float[Tensor, "batch d_model"]) -> None:
        n, total, square = F.moments_update(x, self.shift)
        self.n = self.n + n
        self.total = self.total + total
        self.square = self.square + square

    def compute(self) -> dict[str, Tensor]:
        """`n` tokens and `variation`, the sum over tokens of `||x - mean||^2`."""
        return {"n": self.n, "variation": F.variation_compute(self.n, self.total, self.square)}


class Reconstruction(Metric):
    """Sum over tokens and dimensions of the squared reconstruction error of one member."""

    full_state_update = False
    squared_error: Float[Tensor, ""]

    def __init__(self):
        super().__init__()
        self.add_state("squared_error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Float[Tensor, "batch d_model"], x_hat: Float[Tensor, "batch d_model"]) -> None:
        self.squared_error = self.squared_error + F.squared_error_update(x, x_hat)

    def compute(self) -> Float[Tensor, ""]:
        return self.squared_error


class Activity(Metric):
    """Per latent of one member, how often it fires and the sum of its codes; and the sum of all |f|."""

    full_state_update = False
    firings: Int[Tensor, " d_sae"]
    value_sum: Float[Tensor, " d_sae"]
    absolute: Float[Tensor, ""]

    def __init__(self, d_sae: int):
        super().__init__()
        self.add_state("firings", torch.zeros(d_sae, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("value_sum", torch.zeros(d_sae, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("absolute", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, codes: Float[Tensor, "batch d_sae"]) -> None:
        self.firings = self.firings + F.firings_update(codes)
        self.value_sum = self.value_sum + codes.sum(0, dtype=torch.float64)
        self.absolute = self.absolute + F.l1_update(codes)

    def compute(self) -> dict[str, Tensor]:
        return {"firings": self.firings, "value_sum": self.value_sum, "absolute": self.absolute}


def vectors(activity: Activity) -> dict[str, Tensor]:
    """The result of `compute` with 1-dimensional vectors also for one latent, which torchmetrics squeezes."""
    sums = activity.compute()
    return {**sums, **{name: sums[name].reshape(-1) for name in ("firings", "value_sum")}}


class ValidationMetrics(nn.Module):
    """Reconstruction and sparsity of all members of a bank over one pass of held-out tokens.

    `shift` is a mean of the activations known beforehand (see `functional.moments_update`). `update` takes the
    members' outputs as an iterable, so that a generator can free one member's codes before computing the next one's.

    >>> metrics = ValidationMetrics(shift=torch.zeros(2), d_sae=[3])
    >>> x, codes = torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
    >>> metrics.update(x, [(codes, x + 0.5)])
    >>> {name: float(value) for name, value in metrics.compute()[0].items() if name in ("nmse", "l0", "l1")}
    {'nmse': 0.1, 'l0': 1.0, 'l1': 2.0}
    """

    def __init__(self, shift: Float[Tensor, " d_model"], d_sae: Sequence[int]):
        super().__init__()
        self.inputs = InputMoments(shift)
        self.reconstruction = nn.ModuleList(Reconstruction() for _ in d_sae)
        self.activity = nn.ModuleList(Activity(width) for width in d_sae)

    def update(self, x: Float[Tensor, "batch d_model"], outputs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Add a batch of raw activations and, per member, its (codes [batch, d_sae], x_hat [batch, d_model])."""
        self.inputs.update(x)
        pairs = iter(outputs)
        for reconstruction, activity in self._states():
            pair = next(pairs, None)
            assert pair is not None, f"outputs of fewer than {len(self.activity)} members"
            activity.update(pair[0])
            reconstruction.update(x, pair[1])
            del pair  # frees it before the next member's is computed
        assert next(pairs, None) is None, f"outputs of more than {len(self.activity)} members"

    def compute(self) -> list[dict[str, Tensor]]:
        """Per member its metrics, as float64 scalars on the device (`n_tokens` int64); a collective under DDP."""
        inputs = self.inputs.compute()
        return [self._member(inputs, error.compute(), vectors(activity)) for error, activity in self._states()]

    def _states(self) -> Iterable[tuple[Reconstruction, Activity]]:
        return zip(cast(Any, self.reconstruction), cast(Any, self.activity), strict=True)

    def _member(self, inputs: dict[str, Tensor], error: Tensor, activity: dict[str, Tensor]) -> dict[str, Tensor]:
        n, firings = inputs["n"], activity["firings"]
        l0 = F.l0_compute(firings, n)
        return {
            "nmse": F.nmse_compute(error, inputs["variation"]),
            "explained_variance": F.explained_variance_compute(error, inputs["variation"]),
            "mse": F.mse_compute(error, n, len(self.inputs.shift)),
            "l0": l0,
            "l0_fraction": l0 / len(firings),
            "l1": F.l1_compute(activity["absolute"], n),
            "dead": F.dead_compute(firings),
            "almost_dead": F.almost_dead_compute(firings, n),
            "dense_above_0.1": F.dense_compute(firings, n, above=0.1),
            "dense_above_0.01": F.dense_compute(firings, n, above=0.01),
            "n_tokens": n,
        }

    def latents(self, member: int) -> dict[str, Tensor]:
        """Per latent of a member, `frequency` (fraction of tokens) and `mean_value` (over its firings; NaN if none)."""
        n, activity = self.inputs.compute()["n"], vectors(cast(Activity, self.activity[member]))
        return {
            "frequency": F.frequency_compute(activity["firings"], n),
            "mean_value": F.mean_value_compute(activity["value_sum"], activity["firings"]),
        }

    def reset(self) -> None:
        """Reset all sums; the shift is kept."""
        self.inputs.reset()
        for reconstruction, activity in self._states():
            reconstruction.reset()
            activity.reset()
