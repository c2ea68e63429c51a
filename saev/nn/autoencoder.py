"""The sparse autoencoder: one class for every sparsifier.

z = (x - mu)/c ;  h = (z - b_dec) @ w_enc + b_enc ;  f = act(h) ;  z_hat = f @ w_dec + b_dec ;  x_hat = mu + c z_hat
"""

import copy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from saev.nn.archetypal import Archetypes
from saev.nn.decoding import decode
from saev.nn.normalise import Normaliser
from saev.nn.sparsifiers import SparsifierSettings
from saev.nn.sparsifiers.base import Codes, Sparsifier
from saev.ops.sparse import with_encoder_gradient

SLAB = 256  # atoms


class Encoded(NamedTuple):
    """Pre-activations and codes of a training batch."""

    h: Float[Tensor, "batch d_sae"]
    at: Codes  # h, or the pairs that the sparsifier selected from it: carries the gradient to the encoder
    f: Codes


class SparseAutoencoder(nn.Module):
    """A dictionary of d_sae atoms (unit rows of w_dec) with a learned encoder; maps raw activations to raw activations."""

    def __init__(self, d_model: int, d_sae: int, sparsifier: SparsifierSettings, normaliser: Normaliser | None = None):
        super().__init__()
        self.d_model, self.n_latents = d_model, d_sae
        self.sparsifier: Sparsifier = sparsifier.build(d_sae)
        self.normaliser = normaliser or Normaliser(torch.zeros(d_model), torch.ones(()))
        self.encoder = nn.Parameter(torch.zeros(d_sae, d_model))
        self.b_enc = nn.Parameter(torch.zeros(d_sae), requires_grad=self.sparsifier.gate_bias is None)
        self.w_dec = nn.Parameter(torch.zeros(d_sae, d_model))
        self.b_dec = nn.Parameter(torch.zeros(d_model))
        self.archetypes: Archetypes | None = None  # parameters of w_dec, for an archetypal decoder

    @property
    def w_enc(self) -> Float[Tensor, "d_model d_sae"]:
        """The encoder's weights, a view: they are stored latent by latent, the layout of their gradient."""
        return self.encoder.T

    @property
    def firing_bias(self) -> Float[Tensor, " d_sae"]:
        """The bias that decides whether a latent fires."""
        return self.b_enc if self.sparsifier.gate_bias is None else self.sparsifier.gate_bias

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "w_enc"] = destination.pop(prefix + "encoder").T

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *lists: Any
    ) -> None:
        missing, _, errors = lists
        if (w_enc := state_dict.pop(prefix + "w_enc", None)) is not None:
            if w_enc.shape != self.w_enc.shape:
                errors.append(f"w_enc has shape {[*w_enc.shape]}, this autoencoder's {[*self.w_enc.shape]}.")
                w_enc = self.w_enc.detach()
            state_dict[prefix + "encoder"] = w_enc.T
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *lists)
        missing[:] = [prefix + "w_enc" if name == prefix + "encoder" else name for name in missing]

    def pre_activations(self, z: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_sae"]:
        """h, from normalised activations."""
        return linear(z, self.encoder, self.b_enc - linear(self.b_dec, self.encoder))

    def training_codes(self, z: Float[Tensor, "batch d_model"]) -> Encoded:
        """Codes of normalised activations by the training rule; gradients flow through `at` and the codes.

        Where few latents contribute to the loss, only their pairs carry the encoder's gradient, and h has no graph.
        """
        h = self.pre_activations(z)
        pairs = self.sparsifier.select(h.detach())
        if pairs is None:
            return Encoded(h, h, self.sparsifier(h))
        weights, rectified = (self.w_enc, self.b_enc, self.b_dec), self.sparsifier.selects_codes
        at = with_encoder_gradient(pairs, z, *weights, rectified=rectified)
        return Encoded(h.detach(), at, self.sparsifier.codes_of(at))

    def encode(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_sae"]:
        """Codes of raw activations; ValueError for another width than the autoencoder's."""
        if acts.shape[-1] != self.d_model:
            raise ValueError(
                f"activations have d_model={acts.shape[-1]}, this dictionary was trained on d_model={self.d_model}: "
                "encode activations of the same backbone."
            )
        codes = self.sparsifier(self.pre_activations(self.normaliser(acts)))
        return codes * self.w_dec.norm(dim=1) if self.sparsifier.free_atoms else codes

    def decode(self, codes: Codes) -> Float[Tensor, "batch d_model"]:
        """The reconstruction of raw activations from codes [batch, d_sae], dense or sparse."""
        return self.normaliser.inverse(decode(codes, self.atoms) + self.b_dec)

    def forward(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """The reconstruction of raw activations."""
        return self.decode(self.encode(acts))

    @property
    def atoms(self) -> Float[Tensor, "d_sae d_model"]:
        """The dictionary's directions, unit rows in normalised space."""
        return normalize(self.w_dec, dim=1) if self.sparsifier.free_atoms else self.w_dec

    def project(self) -> None:
        """After an optimiser step: project atoms and sparsifier onto their constraints."""
        if self.w_dec.requires_grad:
            self.normalise_atoms()
        self.sparsifier.project()

    @torch.no_grad()
    def normalise_atoms(self) -> None:
        """Give atoms unit norm unless the penalty weights their norms; recompute archetypal atoms."""
        if self.archetypes is not None:
            self.w_dec.copy_(self.archetypes.atoms())
            return
        if self.sparsifier.free_atoms:
            return
        self.w_dec.div_(self.w_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Remove from each atom's gradient the component along the atom, which renormalisation would undo (Bricken et al. 2023)."""
        if self.archetypes is not None:
            self.archetypes.pull_back(self.w_dec)
        elif self.w_dec.grad is not None and not self.sparsifier.free_atoms:
            # Slabs that fit into a CPU's cache take half the time for large dictionaries.
            rows = SLAB if self.w_dec.device.type == "cpu" else self.n_latents
            for grad, atoms in zip(self.w_dec.grad.split(rows), self.w_dec.split(rows), strict=True):
                grad.addcmul_((grad * atoms).sum(1, keepdim=True), atoms, value=-1)

    @torch.no_grad()
    def finalised(self) -> "SparseAutoencoder":
        """The same function in the form that is saved: unit atoms without constraints, their norms moved into the encoder."""
        sae = copy.deepcopy(self)
        sae.archetypes = None
        sae.sparsifier.finalise()
        if self.sparsifier.free_atoms:
            norm = self.w_dec.norm(dim=1)
            sae.w_dec.copy_(self.atoms)
            sae.w_enc.mul_(norm)
            sae.b_enc.mul_(norm)
        return sae

    @torch.no_grad()
    def folded(self) -> "SparseAutoencoder":
        """The same function with normalisation folded into the weights (for other libraries); codes are unchanged.

        With z = (x - mu)/c:  w_enc' = w_enc / c,  b_enc' = b_enc,  w_dec' = w_dec c,  b_dec' = mu + c b_dec.
        """
        sae = self.finalised()
        mean, scale = self.normaliser.mean, self.normaliser.scale.expand(self.d_model)
        sae.normaliser = Normaliser(torch.zeros_like(mean), torch.ones_like(self.normaliser.scale))
        sae.w_enc.div_(scale[:, None])
        sae.w_dec.mul_(scale)
        sae.b_dec.copy_(mean + scale * self.b_dec)
        return sae
