"""What shared training tokens alone give: two random draws of tokens compared as dictionaries are."""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saev.metrics.matching import SAME, best_matches, one_to_one
from saev.shards.selected_tokens import Selection


class TokenDraws(NamedTuple):
    """Fractions of the tokens of one draw with a token of the other that has a cosine of SAME or more."""

    best: float
    one_to_one: float


def compare_draws(selection: Selection, n: int, device: str | torch.device, seed: int = 0) -> TokenDraws | None:
    """Two independent draws of n tokens of the selection's layer and roles, of all images, less the mean of all of them.

    None where the recording has fewer than n such tokens.
    """
    everything = dataclasses.replace(
        selection, images=np.flatnonzero(selection.store.tokens_per_image(selection.layer))
    )
    if everything.spans.n_tokens < n:
        return None
    x, y = (draw(everything, n, one).to(device) for one in (2 * seed, 2 * seed + 1))
    matches = best_matches(x, y)
    pairs = one_to_one(x, y, matches, SAME)
    return TokenDraws(*((flags.double().mean().item()) for flags in (matches.similarity_a >= SAME, pairs >= 0)))


def draw(selection: Selection, n: int, seed: int) -> Float[Tensor, "n d_model"]:
    """n different tokens, uniformly drawn, less the mean of all tokens of these roles; read in place, not in a pass."""
    store, spans = selection.store, selection.spans
    ends = np.cumsum(spans.stop - spans.start)
    rows = np.sort(np.random.default_rng(seed).choice(spans.n_tokens, n, replace=False))
    span = np.searchsorted(ends, rows, "right")
    token = spans.stop[span] - (ends[span] - rows)
    firsts = np.flatnonzero(np.diff(span, prepend=-1))
    parts = [
        np.asarray(store.read(selection.layer, int(spans.example[span[start]]))[token[start:stop]], np.float32)
        for start, stop in zip(firsts, [*firsts[1:], n], strict=True)
    ]
    mean = store.moments(selection.layer, selection.tokens).mean
    return torch.from_numpy(np.concatenate(parts) - np.asarray(mean, np.float32))
