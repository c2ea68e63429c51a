"""Scores pooled over the tokens of each image while the activations are read."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from saev.scoring.scorers import TokenScorer, checked
from saev.shards.selected_tokens import Selection


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
