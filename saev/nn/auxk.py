"""The revival of dead latents."""

from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import linear

from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.settings import AuxK
from saev.ops import collective
from saev.ops.sparse import decode_sparse, topk_among, with_encoder_gradient
from saev.ops.topk import by_numpy, topk_codes


def auxk_loss(
    settings: AuxK,
    sae: SparseAutoencoder,
    z: Float[Tensor, "batch d_model"],
    h: Float[Tensor, "batch d_sae"],
    residual: Float[Tensor, "batch d_model"],
    dead: Bool[Tensor, " d_sae"],
    maybe: Int64[Tensor, " n"],
) -> Float[Tensor, ""]:
    """coefficient * ||e_hat - sg(e)||^2 / ||sg(e) - mean(sg(e))||^2, where e = z - z_hat is the residual.

    e_hat decodes, without bias, the k largest of relu(h) among the dead latents; both norms are sums over the whole batch. Its
    gradient reaches those latents' encoder and atoms; 0, without a gradient, when no latent is dead. `maybe` are latents among
    which all dead ones are (`MaybeDead`).
    """
    e = residual.detach()
    if not len(maybe):
        return e.new_zeros(())
    k = max(1, e.shape[1] // 2) if settings.k is None else settings.k
    e_hat = by_pairs(sae, z, h, k, dead) if by_numpy(h) else by_matrices(sae, z, k, dead, maybe)
    spread = collective.all_reduce_sum((e - collective.all_reduce_mean(e.mean(0))).square().sum())
    # of this process's tokens, as the error that it is compared with
    spread = collective.weight_by_fraction(spread).clamp_min(1e-12)
    return settings.coefficient * dead.any() * (e_hat - e).square().sum() / spread


def by_matrices(
    sae: SparseAutoencoder,
    z: Float[Tensor, "batch d_model"],
    k: int,
    dead: Bool[Tensor, " d_sae"],
    maybe: Int64[Tensor, " n"],
) -> Float[Tensor, "batch d_model"]:
    """e_hat by a dictionary of the latents that may be dead, often few: recomputes their pre-activations, with a graph."""
    encoder, bias, atoms = (x.index_select(0, maybe) for x in (sae.encoder, sae.firing_bias, sae.w_dec))
    revived = linear(z - sae.b_dec, encoder, bias).masked_fill(~dead[maybe], 0)
    return (topk_codes(revived, k) if k < len(maybe) else revived.relu()) @ atoms


def by_pairs(
    sae: SparseAutoencoder,
    z: Float[Tensor, "batch d_model"],
    h: Float[Tensor, "batch d_sae"],
    k: int,
    dead: Bool[Tensor, " d_sae"],
) -> Float[Tensor, "batch d_model"]:
    """The same from the positive entries of h, which are few in latents that do not fire: on a CPU in half the time."""
    bias, latents = sae.firing_bias, dead.nonzero().squeeze(1)
    gate = h.detach()[:, latents] + (bias - sae.b_enc).detach()[latents]
    chosen = topk_among(gate, k, latents)
    return decode_sparse(with_encoder_gradient(chosen, z, sae.w_enc, bias, sae.b_dec), sae.w_dec)
