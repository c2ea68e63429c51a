"""Activations of a world whose features are known: sparse, hierarchical and flat, Zipf-distributed, correlated.

    Gaussian copula -> which features fire -> trees (a child only with its parent, one child at a time) -> magnitudes -> x

The law is SynthSAEBench's (Chanin & Garriga-Alonso 2026, arXiv:2602.14687), the code is not: batch k is a function of
(seed, k) alone, and firing probabilities are corrected for the trees by solving for them.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize


@dataclasses.dataclass(frozen=True)
class Law:
    """What distinguishes one world from another; the defaults are the published ones."""

    n_features: int = 16384
    d_model: int = 768
    roots: int = 128  # the most frequent features are roots, their children come next, level by level; the rest is flat
    branching: int = 4
    depth: int = 3
    p_max: float = 0.4  # how often the most frequent feature fires
    p_min: float = 5e-4
    exponent: float = 0.5
    rank: int = 25  # of the correlation between the features' Gaussians
    correlation: float = 0.1
    magnitude: tuple[float, float] = (5.0, 4.0)  # mean when firing, from the first feature to the last
    spread: tuple[float, float] = (0.5, 0.5)  # a feature's standard deviation is |N(these)|
    bias: float = 0.5  # its norm
    separation: tuple[int, float] = (100, 3e-4)  # Adam steps and learning rate that make atoms less alike
    scale_by_parent: bool = True  # a child is as strong as its parent is, relative to the parent's mean

    def __post_init__(self):
        if self.levels[-1] > self.n_features:
            raise ValueError(
                f"{self.roots} trees of depth {self.depth} and branching {self.branching} have {self.levels[-1]} "
                f"features, more than n_features={self.n_features}: plant fewer roots."
            )

    @property
    def levels(self) -> list[int]:
        """The index after the last feature of each level of the trees.

        >>> Law().levels
        [128, 640, 2688, 10880]
        """
        return np.cumsum([self.roots * self.branching**level for level in range(self.depth + 1)]).tolist()


class Sample(NamedTuple):
    """Activations, and the features that they were made from."""

    x: Float[Tensor, "batch d_model"]
    f: Float[Tensor, "batch n_features"]


class World:
    """A law with its dice thrown: atoms, bias, correlation and spreads, on one device."""

    def __init__(self, law: Law, seed: int = 0, device: str = "cpu"):
        self.law, self.seed, self.device = law, seed, device
        # not `seed` itself: an SAE of that seed would start from the same Gaussians, which are the features
        state = int(np.random.SeedSequence(seed, spawn_key=(1,)).generate_state(1, np.uint64)[0])
        g = torch.Generator().manual_seed(state % 2**63)
        n, d = law.n_features, law.d_model
        steps, lr = law.separation
        self.atoms = separate(normalize(torch.randn(n, d, generator=g), dim=1).to(device), steps, lr)
        self.bias = (law.bias * normalize(torch.randn(d, generator=g), dim=0)).to(device)
        self.factor = (law.correlation * torch.randn(n, law.rank, generator=g)).to(device)
        self.own = (1 - self.factor.square().sum(1)).clamp_min(0.01).sqrt()
        self.mean = torch.linspace(*law.magnitude, n).to(device)
        self.spread = (law.spread[0] + law.spread[1] * torch.randn(n, generator=g)).abs().to(device)
        raw, self.frequency = before_trees(law)
        self.threshold = torch.special.ndtri(1 - raw).float().to(device)
        self.raw = raw

    def batch(self, k: int, size: int) -> Sample:
        """Batch `k` of `size` samples: a function of the world's seed, k and size."""
        state = int(np.random.SeedSequence([self.seed, k]).generate_state(1, np.uint64)[0])
        g = torch.Generator(self.device).manual_seed(state % 2**63)
        f = self._magnitudes(self._firing(size, g), g)
        return Sample(f @ self.atoms + self.bias, f)

    def _firing(self, size: int, g: torch.Generator) -> Bool[Tensor, "batch n_features"]:
        law, device = self.law, self.device
        shared = torch.randn(size, law.rank, generator=g, device=device) @ self.factor.T
        own = torch.randn(size, law.n_features, generator=g, device=device)
        firing = shared.addcmul_(own, self.own) > self.threshold
        for above, start, end in _levels(law):
            parent, child = firing[:, above:start], firing[:, start:end].view(size, -1, law.branching)
            lots = torch.rand(child.shape, generator=g, device=device)
            chosen = torch.where(child & parent[..., None], lots, -1.0).max(-1, keepdim=True)  # one child at a time
            alone = torch.zeros_like(child).scatter_(-1, chosen.indices, chosen.values >= 0)
            firing[:, start:end] = alone.flatten(1)
        return firing

    def _magnitudes(self, firing: Bool[Tensor, "batch n"], g: torch.Generator) -> Float[Tensor, "batch n"]:
        where = firing.nonzero(as_tuple=True)
        noise = torch.randn(len(where[0]), generator=g, device=self.device)
        f = torch.zeros(firing.shape, device=self.device)
        f[where] = (self.mean[where[1]] + self.spread[where[1]] * noise).relu()
        for above, start, end in _levels(self.law):
            parent = f[:, above:start].repeat_interleave(self.law.branching, 1)
            mean = self.mean[above:start].repeat_interleave(self.law.branching)
            f[:, start:end] *= parent / mean if self.law.scale_by_parent else parent > 0
        return f


def _levels(law: Law) -> list[tuple[int, int, int]]:
    """(first parent, first child, index after the last child) of each level below the roots."""
    ends = [0, *law.levels]
    return list(zip(ends, ends[1:], ends[2:], strict=False))


def zipf(n: int, exponent: float, p_max: float, p_min: float) -> Float[Tensor, " n"]:
    """rank^-exponent, moved and stretched to run from p_max to p_min.

    >>> zipf(4, 0.5, 0.4, 0.1).tolist()[::3]
    [0.4, 0.1]
    """
    p = torch.arange(1, n + 1, dtype=torch.float64) ** -exponent
    return p_min + (p_max - p_min) * (p - p[-1]) / (p[0] - p[-1])


def before_trees(law: Law) -> tuple[Float[Tensor, " n_features"], Float[Tensor, " n_features"]]:
    """(probabilities to draw with, so that after the trees features fire as Zipf says, as far as that can be; and what
    they then are), the correlation left aside.

    Beside its parent's probability P, a child that is drawn with q fires with P q E[1/(1 + drawn siblings)], as one of
    those drawn is kept. Where siblings ask for more than their parent has, they are drawn always and share it.
    """
    target = zipf(law.n_features, law.exponent, law.p_max, law.p_min)
    raw, true = target.clone(), target.clone()
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(max(2, law.branching)))
    t = (nodes + 1) / 2
    for above, start, end in _levels(law):
        parent = true[above:start, None]
        wanted = target[start:end].view(-1, law.branching)
        q = (wanted / parent).clamp(max=1)
        for _ in range(60):  # E[1/(1+N)] = integral over t in (0, 1) of prod over siblings of (1 - q + q t)
            each = 1 - q[..., None] * (1 - t)
            kept = (each.prod(1, keepdim=True) / each * weights / 2).sum(-1)
            q = (wanted / (parent * kept)).clamp(max=1)
        raw[start:end], true[start:end] = q.flatten(), (parent * q * kept).flatten()
    return raw, true


def separate(atoms: Float[Tensor, "n d"], steps: int, lr: float) -> Float[Tensor, "n d"]:
    """Unit atoms after `steps` of Adam on the sum of their squared cosines.

    That sum is the squared norm of atoms^T atoms, so the n x n table of cosines is not needed.
    """
    atoms = atoms.clone().requires_grad_()
    optimiser = torch.optim.Adam([atoms], lr)
    for _ in range(steps):
        unit = normalize(atoms, dim=1)
        (gradient,) = torch.autograd.grad((unit.T @ unit).square().sum(), atoms)
        atoms.grad = gradient
        optimiser.step()
    return normalize(atoms.detach(), dim=1)
