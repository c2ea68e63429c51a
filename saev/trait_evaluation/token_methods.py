"""The methods where units are tokens: all prototypes' scores of a sample of tokens."""

import os
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float32
from scipy.sparse import csc_matrix, csr_matrix

from saev.codes.encoding import DENSE
from saev.codes.pairs import sparse_codes
from saev.progress import bar
from saev.saved import SavedDictionary
from saev.scoring.blocks import Scores
from saev.scoring.scorers import Activations, BothSigns, TokenScorer, checked, kind_of, on_device, scorer_of
from saev.trait_evaluation.methods import CHANNELS, Method, Study, methods_of
from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.units import Side

Raw = Float32[np.ndarray, "units d_model"]


@torch.inference_mode()
def token_methods(
    study: Study,
    scorers: Mapping[str, TokenScorer],
    settings: TraitsSettings,
    codes: str | os.PathLike | None,
    device: str,
) -> tuple[list[Method], tuple[Raw, Raw]]:
    """The methods, and the tokens' raw activations. `codes` are not read: few tokens are scored."""
    saved, train, test, layer = study.members, study.train, study.test, study.layer
    raw = (
        activations_of(train, layer, settings.tokens, settings.batch_size),
        activations_of(test, layer, settings.tokens, settings.batch_size),
    )
    others = {name: on_device(scorer, device) for name, scorer in scorers.items()}
    if settings.channels:
        others[CHANNELS] = BothSigns(Activations(train.store.d_model))
    scores: dict[str, tuple[Scores, Scores]] = {}
    for name, scorer in others.items():
        scores[name] = (
            scored(scorer, raw[0], settings.batch_size, device),
            scored(scorer, raw[1], settings.batch_size, device),
        )
    for one in saved:
        scores[one.name] = (
            coded(one, raw[0], settings.batch_size, device),
            coded(one, raw[1], settings.batch_size, device),
        )
    return methods_of(saved, scorers, scores), raw


def scored(scorer: TokenScorer, acts: Raw, batch_size: int, device: str) -> Float32[np.ndarray, "units prototypes"]:
    """The scores of all tokens."""
    out = np.empty((len(acts), scorer.n_prototypes), np.float32)
    for rows, x in batches(acts, batch_size, device):
        out[rows] = checked(scorer, x).float().cpu().numpy()
    return out


def coded(one: SavedDictionary, acts: Raw, batch_size: int, device: str) -> Scores:
    """A dictionary's codes of all tokens; as pairs where they are sparse."""
    dictionary = one.load(device)
    first = sparse_codes(dictionary, next(batches(acts, batch_size, device))[1])
    if kind_of(one) == "pca" or len(first.latents) > DENSE * min(batch_size, len(acts)) * dictionary.n_latents:
        return scored(scorer_of(one, device), acts, batch_size, device)
    parts = [sparse_codes(dictionary, x) for _, x in batches(acts, batch_size, device)]
    counts = np.concatenate([part.offsets.diff().cpu().numpy() for part in parts])
    latents, values = (
        np.concatenate([getattr(part, name).cpu().numpy() for part in parts]) for name in ("latents", "values")
    )
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return csc_matrix(csr_matrix((values, latents, offsets), shape=(len(acts), dictionary.n_latents)))


def batches(acts: Raw, batch_size: int, device: str) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows, activations) in batches on the device."""
    for start in range(0, len(acts), batch_size):
        yield slice(start, start + batch_size), torch.from_numpy(acts[start : start + batch_size]).to(device)


def activations_of(side: Side, layer: int, tokens: str, batch_size: int) -> Raw:
    """The raw activations of a side's tokens, in its order."""
    assert side.token is not None, "units are tokens"
    selection = side.selection(layer, tokens)
    stride = int(selection.store.tokens_per_image(layer).max())
    key = side.example * stride + side.token
    order = np.argsort(key)
    ascending, out = key[order], np.zeros((len(key), side.store.d_model), np.float32)
    missing = np.ones(len(key), bool)
    with bar("Reading tokens", selection.spans.n_tokens) as advance:
        for shard in range(len(selection.rows)):
            for batch in selection.batches(shard, batch_size):
                here = batch["example"] * stride + batch["token"]
                at = np.minimum(np.searchsorted(ascending, here), len(key) - 1)
                sampled = ascending[at] == here
                out[order[at[sampled]]] = batch["acts"][sampled]
                missing[order[at[sampled]]] = False
                advance(len(here))
    assert not missing.any(), "every unit is among the selected tokens"
    return out
