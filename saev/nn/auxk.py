"""The revival of dead latents."""

import dataclasses

from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import linear

from saev.nn.autoencoder import SparseAutoencoder
from saev.ops import collective
from saev.ops.sparse import decode_sparse, topk_among, with_encoder_gradient
from saev.ops.topk import by_numpy, topk_codes


@dataclasses.dataclass(frozen=True)
class AuxK:
    """An auxiliary loss that lets dead latents explain the residual (Gao et al. 2024, appendix A.2).

    coefficient * ||e_hat - sg(e)||^2 / ||sg(e) - mean(sg(e))||^2, where e = z - z_hat and e_hat decodes, without bias, the
    k largest of relu(h) among the dead latents; both norms are sums over the whole batch. Its gradient reaches those latents'
    encoder and atoms.
    """

    coefficient: float = 1 / 32
    k: int | None = None  # d_model / 2
    dead_tokens: int = 10_000_000  # a latent is dead when it has not fired for so many tokens

    def __call__(
        self,
        sae: SparseAutoencoder,
        z: Float[Tensor, "batch d_model"],
        h: Float[Tensor, "batch d_sae"],
        residual: Float[Tensor, "batch d_model"],
        dead: Bool[Tensor, " d_sae"],
        maybe: Int64[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """The weighted loss for a batch and its pre-activations: 0, without a gradient, when nothing is dead.

        `maybe` are the latents among which the dead ones are (`MaybeDead`): none are looked for elsewhere.
        """
        e = residual.detach()
        if not len(maybe):
            return e.new_zeros(())
        k = max(1, e.shape[1] // 2) if self.k is None else self.k
        e_hat = by_pairs(sae, z, h, k, dead) if by_numpy(h) else by_matrices(sae, z, k, dead, maybe)
        spread = collective.all_reduce_sum((e - collective.all_reduce_mean(e.mean(0))).square().sum())
        # what falls to this part, as its own error is compared with it
        spread = collective.weight_by_fraction(spread).clamp_min(1e-12)
        return self.coefficient * dead.any() * (e_hat - e).square().sum() / spread


def by_matrices(
    sae: SparseAutoencoder,
    z: Float[Tensor, "batch d_model"],
    k: int,
    dead: Bool[Tensor, " d_sae"],
    maybe: Int64[Tensor, " n"],
) -> Float[Tensor, "batch d_model"]:
    """e_hat by a dictionary of the latents that may be dead, often few: their pre-activations are made anew, with a graph."""
    encoder, bias, atoms = (
        x.index_select(0, maybe) for x in (sae.encoder, sae.sparsifier.gate_bias(sae.b_enc), sae.w_dec)
    )
    revived = linear(z - sae.b_dec, encoder, bias).masked_fill(~dead[maybe], 0)
    return (topk_codes(revived, k) if k < len(maybe) else revived.relu()) @ atoms


def by_pairs(
    sae: SparseAutoencoder,
    z: Float[Tensor, "batch d_model"],
    h: Float[Tensor, "batch d_sae"],
    k: int,
    dead: Bool[Tensor, " d_sae"],
) -> Float[Tensor, "batch d_model"]:
    """The same from what of h is positive, which is little in latents that do not fire: on a CPU in half the time."""
    bias, latents = sae.sparsifier.gate_bias(sae.b_enc), dead.nonzero().squeeze(1)
    gate = h.detach()[:, latents] + (bias - sae.b_enc).detach()[latents]
    chosen = topk_among(gate, k, latents)
    return decode_sparse(with_encoder_gradient(chosen, z, sae.w_enc, bias, sae.b_dec), sae.w_dec)
