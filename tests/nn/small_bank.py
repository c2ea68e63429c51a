"""A small bank: members of every architecture on random activations, built afresh for each test."""

import numpy as np
import torch

from saev.nn import (
    AuxK,
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    Member,
    Normaliser,
    Plain,
    RandomMatryoshka,
    ReLU,
    TopK,
    TrainingMember,
)  # fmt: skip
from saev.shards import Moments

ROWS = np.random.default_rng(0).normal(1, 2, size=(600, 12))
X = torch.from_numpy(ROWS).float()


def normaliser() -> Normaliser:
    """A new module each time: one that tests share would follow the member that is moved to another device."""
    return Normaliser.fit(Moments.of(ROWS))


Z = normaliser()(X)
SPARSIFIERS = {
    "relu": lambda: ReLU(1e-3),
    "relu-atom-norm": lambda: ReLU(1e-3, atom_norm=True),
    "topk": lambda: TopK(3),
    "topk-threshold": lambda: TopK(3, threshold=True),
    "batchtopk": lambda: BatchTopK(3),
    "jumprelu": lambda: JumpReLU(1e-3),
    "jumprelu-tanh": lambda: JumpReLU(1e-3, tanh=4.0),
    "gated": lambda: Gated(1e-3),
}
OBJECTIVES = {"plain": Plain, "matryoshka": Matryoshka, "random": lambda: RandomMatryoshka(n_prefixes=4)}


def spec(name="a", sae="topk", objective="plain", **more):
    auxk = AuxK(dead_tokens=more.pop("dead_tokens", 10_000_000))
    return Member(SPARSIFIERS[sae](), name, OBJECTIVES[objective](), auxk, more.pop("lr", 1e-2), d_sae=48, **more)


def build(settings: Member | None = None, z=Z, **more) -> TrainingMember:
    """A new member, by default with the settings spec(**more)."""
    return (settings or spec(**more)).build(normaliser(), z)


def train(member, steps=60, z=Z):
    """The losses of each step of Adam on z."""
    optimiser = torch.optim.Adam(member.sae.parameters(), lr=member.lr)
    history = []
    for _ in range(steps):
        losses = member(z)
        losses.loss.backward()
        member.condition_gradients(1.0)
        optimiser.step()
        optimiser.zero_grad()
        member.finish_step(losses.l0)
        history.append(losses)
    return history
