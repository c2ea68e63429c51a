"""Dictionaries of every kind with random weights whose codes of the tiny recording's activations are sparse."""

import torch

from saev.nn import BatchTopK, Gated, JumpReLU, Normaliser, ReLU, SparseAutoencoder, TopK

D_MODEL, D_SAE = 16, 96
LEVEL = 1.5  # of the pre-activations: a standard normal exceeds it on 7 % of tokens
KINDS = {
    "topk": lambda: TopK(5),
    "topk by threshold": lambda: TopK(5, threshold=True),
    "batchtopk": lambda: BatchTopK(5),
    "relu": lambda: ReLU(1e-3),
    "free atoms": lambda: ReLU(1e-3, atom_norm=True),
    "jumprelu": lambda: JumpReLU(),
    "gated": lambda: Gated(1e-3),
}


@torch.no_grad()
def sae(kind: str, seed: int = 0) -> SparseAutoencoder:
    """A d_sae of 96 on d_model 16, in evaluation mode."""
    rng = torch.Generator().manual_seed(seed)
    made = SparseAutoencoder(D_MODEL, D_SAE, KINDS[kind](), Normaliser(torch.full((D_MODEL,), 2.0), torch.tensor(3.0)))
    made.w_dec.copy_(torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=rng), dim=1))
    made.w_enc.copy_(made.w_dec.T)
    made.b_dec.copy_(0.1 * torch.randn(D_MODEL, generator=rng))
    rule = made.sparsifier
    if hasattr(rule, "theta"):
        rule.theta.fill_(LEVEL)
    elif isinstance(rule, Gated):
        rule.b_gate.fill_(-LEVEL)
        rule.b_mag.fill_(-LEVEL / 2)
        rule.r.fill_(0.3)
    elif kind != "topk":
        made.b_enc.fill_(-LEVEL)
        made.w_dec.mul_(torch.linspace(0.5, 2, D_SAE).unsqueeze(1) if kind == "free atoms" else 1)
    return made.eval().requires_grad_(False)


class Signed(torch.nn.Module):
    """A dictionary that is no autoencoder: all projections, of either sign, shifted so that none is 0."""

    def __init__(self, n_latents: int = 40, factor: float = 1.0):
        super().__init__()
        self.d_model, self.n_latents = D_MODEL, n_latents
        atoms = torch.randn(n_latents, D_MODEL, generator=torch.Generator().manual_seed(1))
        self.register_buffer("atoms", factor * atoms)

    def encode(self, acts: torch.Tensor) -> torch.Tensor:
        return acts @ self.atoms.T

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.atoms


class OneHot(Signed):
    """As of k-means: the nearest atom alone."""

    def encode(self, acts: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(acts, self.atoms).argmin(1)
        return torch.nn.functional.one_hot(nearest, self.n_latents).float()
