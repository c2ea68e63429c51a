"""What shared training tokens alone give: two draws of different tokens as dictionaries, compared as others are."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saev.baselines.random_vectors import RandomVectorsDictionary
from saev.evaluation.compared import Compared, directions, pooled_codes
from saev.evaluation.pairwise import compare_pair
from saev.nn.normalise import Normaliser
from saev.shards.selected_tokens import Selection

K = 32  # projections of a token that are its codes


def compare_draws(selection: Selection, n: int, batch_size: int, device: str, seed: int = 0) -> dict[str, float]:
    """tokens_<measure> and tokens_<measure>_one_to_one of two draws of n tokens of the selection's layer and roles, of all images of
    the recording, less the mean, without a token in common; {} where it has fewer than 2 n such tokens.

    Their codes, the K largest projections of each token, are compared over the selection's images.
    """
    images = np.flatnonzero(selection.store.tokens_per_image(selection.layer))
    everything = dataclasses.replace(selection, images=images)
    if everything.spans.n_tokens < 2 * n:
        return {}
    tokens = draw(everything, 2 * n, seed)
    tokens = tokens[torch.randperm(2 * n, generator=torch.Generator().manual_seed(seed))]
    pair = {str(i): drawn_dictionary(everything, tokens[i::2]).to(device) for i in range(2)}
    codes = pooled_codes(pair, selection, batch_size, device)
    a, b = (Compared(name, directions(one), None, codes[name], selection, "", {}) for name, one in pair.items())
    numbers = compare_pair(a, b).numbers
    out = {}
    for name in ("cosine", "correlation", "jaccard"):
        if f"{name}_a" in numbers:
            out[f"tokens_{name}"] = (numbers[f"{name}_a"] + numbers[f"{name}_b"]) / 2
            out[f"tokens_{name}_one_to_one"] = numbers[f"{name}_one_to_one"]
    return out


def drawn_dictionary(selection: Selection, tokens: Float[Tensor, "n d_model"]) -> RandomVectorsDictionary:
    """Tokens of the selection as unit atoms, less the mean."""
    mean = torch.from_numpy(selection.store.moments(selection.layer, selection.tokens).mean).float()
    normaliser = Normaliser(mean, torch.ones(()))
    return RandomVectorsDictionary(normaliser, torch.nn.functional.normalize(tokens - mean), min(K, len(tokens)))


def draw(selection: Selection, n: int, seed: int) -> Float[Tensor, "n d_model"]:
    """n different tokens, uniformly drawn; read in place, not in a pass."""
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
    return torch.from_numpy(np.concatenate(parts))
