"""BatchTopK: k active latents per token on average over a batch."""

import torch
from jaxtyping import Float
from torch import Tensor

from saev.nn.sparsifiers.settings import BatchTopK
from saev.nn.sparsifiers.topk import Thresholded
from saev.ops.sparse import SparseCodes, batchtopk_select


class BatchTopKSparsifier(Thresholded[BatchTopK]):
    """See `BatchTopK`; theta tracks the smallest positive value kept in the whole batch."""

    def __init__(self, settings: BatchTopK, d_sae: int):
        super().__init__(settings, d_sae)
        self._add_threshold()

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return torch.where(h > self.theta, h, 0.0)

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes:
        codes = batchtopk_select(h, self.settings.k)
        self.update_threshold(codes.values)
        return codes
