"""Pairs of groups for tests: codes with many ties, clusters of unequal size, strata."""

import numpy as np

from saev.contrasts.sides import Sides


def codes(images: int, latents: int, seed: int = 0, levels: int = 6, density: float = 0.4) -> np.ndarray:
    """Codes with ties, most of them 0; latent 2 is silent."""
    rng = np.random.default_rng(seed)
    values = np.ceil(rng.random((images, latents)) * levels) / levels * (rng.random((images, latents)) < density)
    values[:, 2] = 0
    return values.astype(np.float32)


def pair(
    n_a: int, n_b: int, rows: int, seed: int = 0, *, strata: int = 1, per_cluster: int = 1, name: str = "p"
) -> Sides:
    """Two groups of rows drawn at random, in clusters of `per_cluster` (the last of a group may be smaller)."""
    order = np.random.default_rng(seed).permutation(rows)[: n_a + n_b]
    in_group = np.concatenate([np.arange(n_a), np.arange(n_b)])
    cluster = in_group // per_cluster + np.where(np.arange(n_a + n_b) < n_a, 0, 1000)
    return Sides(name, order[:n_a], order[n_a:], cluster, in_group % strata)
