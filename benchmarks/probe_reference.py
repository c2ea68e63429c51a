"""Synthetic codes with classes, and Levenberg-Marquardt over the non-zeros of each (latent, class): what probes are compared with."""

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from saev.ops.sparse import SparseCodes
from saev.probing.counts.segments import segment_sums
from saev.probing.logistic.fit import RIDGE
from saev.probing.logistic.nodes import Nodes, argsort_nodes, row_starts, sorted_nodes

CLASSES = 151
ITERATIONS = 30  # of the reference
USUAL, SPARSE = (1e-3, 0.5), (1e-4, 0.1)  # firing frequencies
T = TypeVar("T")


def world(
    n_tokens: int, n_latents: int, frequencies: tuple[float, float] = SPARSE, seed: int = 0
) -> tuple[SparseCodes, Tensor]:
    """Codes of latents that fire with frequencies in this range, and the class of each token."""
    rng = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, CLASSES + 1)
    labels = rng.choice(CLASSES, n_tokens, p=zipf / zipf.sum())
    members = [np.flatnonzero(labels == c) for c in range(CLASSES)]
    tokens, values = [], []
    for latent in range(n_latents):
        token = rng.choice(n_tokens, rng.binomial(n_tokens, 10 ** rng.uniform(*np.log10(frequencies))), replace=False)
        value = np.exp(rng.normal() + rng.uniform(0.3, 1.2) * rng.normal(size=len(token)))
        own = members[rng.integers(CLASSES)]
        if latent % 3 == 0 and len(own):
            fond = len(token) // 2
            token[:fond], value[:fond] = rng.choice(own, fond), 2 * value[:fond]
        token, first = np.unique(token, return_index=True)
        tokens.append(token)
        values.append(value[first])
    latents = np.repeat(np.arange(n_latents, dtype=np.int32), [len(t) for t in tokens])
    token, value = np.concatenate(tokens), np.concatenate(values).astype(np.float32)
    by_token = np.argsort(token, kind="stable")
    offsets = np.searchsorted(token[by_token], np.arange(n_tokens + 1))
    columns = offsets, latents[by_token], value[by_token]
    return SparseCodes(*map(torch.from_numpy, columns)), torch.from_numpy(labels)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    done = work()
    return time.process_time() - start, done


def columns(codes: SparseCodes, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number within `some`, token and value of the nonzeros of these latents."""
    at = torch.isin(codes.latents, some.int()).nonzero().squeeze(1)
    return torch.searchsorted(some, codes.latents[at].long()), codes.rows()[at], codes.values[at]


def levenberg_marquardt(
    latent: Tensor, token: Tensor, x: Tensor, labels: Tensor, n_latents: int
) -> tuple[Tensor, Tensor]:
    """b and w [latents, classes], float32: per iteration, nonzero and class a gather, a sigmoid and the sums of gradient
    and Gauss-Newton matrix; tokens without the code enter by their number. A damping per pair, lowered while the loss falls.
    """
    positives = torch.bincount(labels, minlength=CLASSES).float()
    y = torch.nn.functional.one_hot(labels[token], CLASSES).float()
    x, n = x[:, None], len(labels)
    zeros = torch.zeros(n_latents, CLASSES)
    silent = n - torch.bincount(latent, minlength=n_latents).float()[:, None]
    silent_positives = positives - zeros.index_add(0, latent, y)
    b = torch.logit(positives.clamp(0.5, n - 0.5) / n).expand(n_latents, -1).clone()
    w, damping, best = zeros.clone(), zeros + 1e-3, zeros + torch.inf
    db, dw = zeros.clone(), zeros.clone()
    for _ in range(ITERATIONS):
        t = (b + db)[latent] + (w + dw)[latent] * x
        s, s0 = t.sigmoid(), (b + db).sigmoid()
        loss = zeros.index_add(0, latent, torch.nn.functional.softplus(t) - y * t)
        loss += silent * torch.nn.functional.softplus(b + db) - silent_positives * (b + db)
        better = loss < best
        b, w, best = torch.where(better, b + db, b), torch.where(better, w + dw, w), torch.where(better, loss, best)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-8, 1e8)
        r, q = s - y, s * (1 - s)
        g0 = zeros.index_add(0, latent, r) + silent * s0 - silent_positives
        g1 = zeros.index_add(0, latent, r * x) + n * RIDGE * (w + dw)
        h00 = zeros.index_add(0, latent, q) + silent * s0 * (1 - s0)
        h01, h11 = zeros.index_add(0, latent, q * x), zeros.index_add(0, latent, q * x * x) + n * RIDGE
        h00, h11 = h00 * (1 + damping) + 1e-9, h11 * (1 + damping) + 1e-9
        determinant = (h00 * h11 - h01 * h01).clamp(min=1e-12)
        db = torch.where(better, -(h11 * g0 - h01 * g1) / determinant, db / 10)
        dw = torch.where(better, -(h00 * g1 - h01 * g0) / determinant, dw / 10)
    return b, w


def reference(codes: SparseCodes, labels: Tensor, some: Tensor) -> tuple[float, Tensor, Tensor]:
    """Seconds for all latents from those for some, and the b and w [some, classes] of these."""
    latent, token, value = columns(codes, some)
    spent, found = 0.0, []
    for k in range(len(some)):  # a latent with all classes is a slab
        mine = latent == k
        seconds, fit = timed(lambda m=mine: levenberg_marquardt(0 * latent[m], token[m], value[m], labels, 1))
        spent += seconds
        found.append(torch.stack(fit))
    b, w = torch.cat(found, 1).double()
    return spent * len(codes.values) / len(value), b, w


def exact_nodes(latents: Int[Tensor, " nnz"], values: Float64[Tensor, " nnz"], n_latents: int, n_tokens: int) -> Nodes:
    """The codes themselves, in any order: one node per distinct value of a latent, and one for its zeros."""
    fired = torch.bincount(latents, minlength=n_latents)
    every = torch.arange(n_latents, device=latents.device)
    owner = torch.cat([latents.long(), every])
    points = torch.cat([values, values.new_zeros(n_latents)])
    weights = torch.cat([torch.ones_like(values), (n_tokens - fired).double()])
    order = argsort_nodes(owner, points, n_latents)
    owner, points, weights = owner[order], points[order], weights[order]
    first = row_starts(owner, points)
    weights = segment_sums(weights, first)
    return sorted_nodes(owner[first], points[first], weights, torch.zeros_like(weights), n_tokens, n_latents)
