"""The affine map between raw activations x and the space z in which dictionaries are learned."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.settings import listed
from saev.shards.moments import Moments

MODES = ("none", "scalar", "standardise")


class Normaliser(nn.Module):
    """z = (x - mean) / scale, with the dataset's mean and scale as buffers.

    `scalar` (default) has one scale for all dimensions, chosen so that E||z||^2 = d_model; `standardise` one per dimension;
    `none` is the identity. In the first two the loss of the mean predictor is 1.
    """

    mean: Float[Tensor, " d_model"]
    scale: Float[Tensor, "..."]

    def __init__(self, mean: Float[Tensor, " d_model"], scale: Float[Tensor, "..."]):
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())

    @classmethod
    def fit(cls, moments: Moments, mode: str = "scalar") -> "Normaliser":
        """The map of the given mode for a dataset with these moments."""
        d_model = len(moments.mean)
        if mode == "none":
            return cls(torch.zeros(d_model), torch.ones(()))
        mean = torch.from_numpy(moments.mean)
        if mode == "scalar":
            return cls(mean, torch.tensor(moments.scale))
        if mode == "standardise":
            spread = torch.from_numpy(moments.variance).sqrt()
            return cls(mean, spread.clamp_min(1e-6 * moments.scale))  # a constant dimension stays at zero
        raise ValueError(f"normalise={mode}: choose {listed(MODES)}.")

    def forward(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """Raw activations to z, in float32."""
        return (x.float() - self.mean) / self.scale

    def inverse(self, z: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """z to raw activations."""
        return z * self.scale + self.mean
