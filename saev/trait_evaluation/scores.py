"""Scores of images by prototypes: codes on disk where they are sparse, else pooled while the activations are read."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from scipy.sparse import csc_matrix
from torch import Tensor, nn

from saev.codes.encoding import DENSE, density, encode
from saev.codes.manifest import CodesManifest, identify
from saev.codes.settings import EncodeSettings
from saev.codes.store import CodeStore
from saev.saved import SavedDictionary, select_tokens
from saev.shards.manifest import FILE
from saev.shards.selected_tokens import Selection


@runtime_checkable
class TokenScorer(Protocol):
    """What ranks tokens: a `saev.Scorer` around a dictionary, or an object of the user's."""

    @property
    def n_prototypes(self) -> int:
        """The number of scores of a token."""
        ...

    def __call__(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_prototypes"]:
        """Scores of raw activations; larger means more like the prototype."""
        ...


class Activations:
    """Raw activations: a score per channel."""

    def __init__(self, d_model: int):
        self.n_prototypes = d_model

    def __call__(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_prototypes"]:
        return acts


class BothSigns:
    """A scorer's scores, and then their negatives."""

    def __init__(self, scorer: TokenScorer):
        self.scorer, self.n_prototypes = scorer, 2 * scorer.n_prototypes

    def __call__(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_prototypes"]:
        scores = self.scorer(acts)
        return torch.cat([scores, -scores], 1)


def on_device(scorer: TokenScorer, device: str) -> TokenScorer:
    """The scorer; a module on the device, in evaluation mode."""
    return scorer.to(device).eval() if isinstance(scorer, nn.Module) else scorer  # type: ignore[return-value]


def checked(
    scorer: TokenScorer, acts: Float[Tensor, "batch d_model"], name: str = "scorers"
) -> Float[Tensor, "batch n_prototypes"]:
    """The scores of a batch; ValueError where they have another shape than the scorer says, or are not finite."""
    scores, shape = scorer(acts), (len(acts), scorer.n_prototypes)
    if scores.shape != shape:
        raise ValueError(
            f"{name} returns scores of shape {tuple(scores.shape)} for {len(acts)} tokens: must be [batch, n_prototypes], "
            f"here {shape}."
        )
    if not torch.isfinite(scores).all():
        raise ValueError(f"{name} returns scores that are not finite: they cannot be ranked.")
    return scores


def is_dense(one: SavedDictionary, selection: Selection, device: str) -> bool:
    """Whether a dictionary's codes are too dense to be stored as pairs."""
    return density(one.load(device), selection, None) > DENSE


def stored_codes(
    one: SavedDictionary, selection: Selection, out: str | os.PathLike | None, batch_size: int, device: str
) -> CodeStore:
    """The codes of a sparse dictionary on the recording; encoded where `out` does not hold them yet."""
    settings = EncodeSettings(selection.tokens, batch_size=batch_size, device=device)
    everything = select_tokens(one, selection.store, layer=selection.layer, tokens=selection.tokens, examples="all")
    manifest = CodesManifest.of(identify(one), one.config["n_latents"], everything, settings)
    root = Path(os.environ.get("SAEV_OUTPUTS", "outputs"), "codes") if out is None else Path(out)
    if (root / manifest.name / FILE).is_file():
        stored = CodesManifest.load(root / manifest.name)
        if stored.complete and "image" in stored.views:
            return CodeStore(root / manifest.name)
    (codes,) = encode(one, selection.store, settings, layer=selection.layer, out=out, progress=True)
    return codes


def pooled_codes(codes: CodeStore, images: Int64[np.ndarray, " images"], pool: str) -> csc_matrix:
    """Pooled codes of these images, in their order."""
    encoded = codes.images["example"].to_numpy()
    row = np.searchsorted(encoded, images)
    assert (encoded[row] == images).all(), "every image has selected tokens"
    return codes.pooled(pool)[row].tocsc()


@torch.inference_mode()
def pooled_scores(
    scorers: Mapping[str, TokenScorer],
    selection: Selection,
    pool: Mapping[str, str],
    batch_size: int,
    device: str,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Float32[np.ndarray, "images prototypes"]]:
    """Scores of the selection's images, in its order, pooled by each scorer's `pool`: max, mean or top3 over the image's tokens.

    Memory: the result, and one batch of scores. ValueError for a scorer that returns another shape than it says.
    """
    number = np.full(selection.store.manifest.n_examples, -1)
    number[selection.images] = np.arange(len(selection.images))
    pools = {
        name: TokenPool(pool[name], len(selection.images), scorer.n_prototypes) for name, scorer in scorers.items()
    }
    for shard in range(len(selection.rows)):
        for batch in selection.batches(shard, batch_size):
            x = torch.from_numpy(batch["acts"]).to(device).float()
            for name, scorer in scorers.items():
                scores = checked(scorer, x, name)
                pools[name].add(scores.float(), number[batch["example"]])
            advance(len(x))
    return {name: one.result() for name, one in pools.items()}


class TokenPool:
    """Pools scores of tokens that arrive in batches, the tokens of an image one after another."""

    def __init__(self, pool: str, n_images: int, n_prototypes: int):
        self.pool = pool
        self.out = np.zeros((n_images, n_prototypes), np.float32)
        self.tokens = np.zeros(n_images, np.int64)
        self.current, self.largest = (
            -1,
            torch.empty(0),
        )  # top3: the largest scores so far of the image that is being read

    def add(self, scores: Float[Tensor, "batch prototypes"], image: Int[np.ndarray, " batch"]) -> None:
        """Add a batch of scores and the image of each token."""
        starts = np.flatnonzero(np.diff(image, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(image)], strict=True):
            self._add(scores[start:stop], int(image[start]))

    def _add(self, scores: Float[Tensor, "tokens prototypes"], image: int) -> None:
        row, first = self.out[image], self.tokens[image] == 0
        self.tokens[image] += len(scores)
        if self.pool == "max":
            largest = scores.amax(0).cpu().numpy()
            row[:] = largest if first else np.maximum(row, largest)
        elif self.pool == "mean":
            row += scores.sum(0).cpu().numpy()
        else:
            if not first:
                assert image == self.current, "the tokens of an image stand together"
                scores = torch.cat([self.largest, scores])
            self.current, self.largest = image, scores.topk(min(3, len(scores)), dim=0).values
            row[:] = self.largest.mean(0).cpu().numpy()

    def result(self) -> Float32[np.ndarray, "images prototypes"]:
        """The pooled scores; 0 for images without tokens."""
        if self.pool == "mean":
            self.out /= np.maximum(self.tokens, 1).astype(np.float32)[:, None]
        return self.out
