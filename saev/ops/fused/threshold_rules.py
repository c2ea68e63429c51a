"""The training rules of sparsifiers with a threshold per latent: JumpReLU and Gated."""

import torch
from jaxtyping import BFloat16, Float32
from torch import Tensor

from saev.ops.fused.buffers import Buffers
from saev.ops.fused.gated_pairs import Gates, gated_codes, gated_gradients
from saev.ops.fused.jump_pairs import Thresholds, jump_codes, jump_gradients
from saev.ops.fused.pairs import Pairs
from saev.ops.fused.rules import Decoder, Rule, beyond
from saev.ops.fused.transposed import Transposed, transposed


class JumpRule(Rule):
    """h above theta, in units of h; the penalty is `sparsity` times L0, (L0 / l0_target - 1)^2, or the mean sum of tanh(c * code)."""

    sums: Thresholds

    def __init__(
        self,
        theta: Float32[Tensor, " d_sae"],
        epsilon: Float32[Tensor, ""],
        sparsity: float,
        l0_target: float | None,
        c: float | None,
        tokens: int,
    ):
        self.theta, self.epsilon, self.tokens = theta, epsilon, tokens
        self.sparsity, self.l0_target, self.c = sparsity, l0_target, c

    def pairs(self, h: BFloat16[Tensor, "rows d_sae"], buffers: Buffers) -> Pairs | None:
        selected = beyond(h, self.theta - 0.501 * self.epsilon, buffers)
        if selected is None:
            return None
        self._selected = selected
        codes = buffers("codes", len(selected.values), dtype=torch.bfloat16)
        return jump_codes(selected, self.theta, codes)

    def by_latent(
        self, pairs: Pairs, d_values: Float32[Tensor, " capacity"], decoder: Decoder, buffers: Buffers
    ) -> Transposed:
        by_latent = transposed(self._selected, d_values, buffers)
        tanh = None if self.c is None else (self.sparsity / self.tokens, self.c)
        self.sums = jump_gradients(by_latent, self.theta, self.epsilon, buffers, tanh)
        return by_latent._replace(fired=self.sums.fired)

    def penalty(self) -> tuple[Float32[Tensor, ""], Float32[Tensor, ""] | float]:
        """(its value, its derivative by L0)."""
        if self.c is not None:
            return self.sparsity * self.sums.tanh.sum() / self.tokens, 0.0
        l0 = self.sums.fired.sum() / self.tokens
        if self.l0_target is None:
            return self.sparsity * l0, self.sparsity
        off = l0 / self.l0_target - 1
        return self.sparsity * off.square(), self.sparsity * 2 * off / self.l0_target

    def gradients(self, of_bias: Float32[Tensor, " d_sae"] | None) -> list[Float32[Tensor, " d_sae"]]:
        """Of theta, in units of h."""
        by_l0 = self.penalty()[1] / self.tokens
        return [-(self.theta * self.sums.d_code + by_l0 * self.sums.under) / self.epsilon]


class ReLURule(Rule):
    """Positive h; the penalty is `sparsity` times the mean sum of the codes."""

    sums: Float32[Tensor, ""]  # of all codes

    def __init__(self, sparsity: Float32[Tensor, ""], tokens: int):
        self.sparsity, self.tokens = sparsity, tokens

    def pairs(self, h: BFloat16[Tensor, "rows d_sae"], buffers: Buffers) -> Pairs | None:
        return beyond(h, torch.zeros(h.shape[1], device=h.device), buffers)

    def by_latent(
        self, pairs: Pairs, d_values: Float32[Tensor, " capacity"], decoder: Decoder, buffers: Buffers
    ) -> Transposed:
        by_latent = transposed(pairs, d_values, buffers)
        by_latent.d_values.add_(self.sparsity / self.tokens)
        real = torch.arange(len(by_latent.values), device=d_values.device) < by_latent.offsets[-1]
        self.sums = torch.where(real, by_latent.values, 0).sum()
        return by_latent

    def penalty(self) -> Float32[Tensor, ""]:
        """Its value."""
        return self.sparsity * self.sums / self.tokens


class GatedRule(Rule):
    """Codes relu(exp(r) * h + b_mag) where h + b_gate > 0; the penalty is `sparsity` times the mean sum of the gates."""

    trains_b_enc = False
    sums: Gates
    squared: Float32[Tensor, " rows"]  # errors of the gates' reconstruction

    def __init__(
        self,
        r: Float32[Tensor, " d_sae"],
        b_gate: Float32[Tensor, " d_sae"],
        b_mag: Float32[Tensor, " d_sae"],
        sparsity: Float32[Tensor, ""],
        tokens: int,
    ):
        self.scale, self.b_gate, self.b_mag, self.sparsity, self.tokens = r.exp(), b_gate, b_mag, sparsity, tokens

    def pairs(self, h: BFloat16[Tensor, "rows d_sae"], buffers: Buffers) -> Pairs | None:
        selected = beyond(h, -self.b_gate, buffers)
        if selected is None:
            return None
        self._selected = selected
        codes, gates = (buffers(n, len(selected.values), dtype=torch.bfloat16) for n in ("codes", "gates"))
        pairs, self._gates = gated_codes(selected, self.scale, self.b_mag, self.b_gate, codes, gates)
        return pairs

    def by_latent(
        self, pairs: Pairs, d_values: Float32[Tensor, " capacity"], decoder: Decoder, buffers: Buffers
    ) -> Transposed:
        d_gates, self.squared = decoder(self._gates)
        by_latent = transposed(self._selected, d_values, buffers, d_gates=d_gates)
        per_gate = self.sparsity / self.tokens
        self.sums = gated_gradients(by_latent, self.scale, self.b_mag, self.b_gate, per_gate, buffers)
        return by_latent._replace(fired=self.sums.fired)

    def penalty(self) -> Float32[Tensor, ""]:
        """Its value."""
        return self.sparsity * self.sums.gates.sum() / self.tokens

    def gradients(self, of_bias: Float32[Tensor, " d_sae"] | None) -> list[Float32[Tensor, " d_sae"]]:
        """Of r, b_gate and b_mag; b_gate is the bias that further losses read."""
        b_gate = self.sums.b_gate if of_bias is None else self.sums.b_gate + of_bias
        return [self.scale * self.sums.scale, b_gate, self.sums.b_mag]
