"""The images with the largest code of each latent, updated from a stream of pairs."""

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

NONE = -1  # in `example` and `token`: the latent fires on fewer images
BUFFER = 1 << 17  # pairs that are collected before they are merged, so that sorts are few


class TopExamples:
    """Per latent the n images with the largest code above 0 on one of their tokens, best first.

    Of equal values the one with the lower image number comes first, and within an image the token seen first: the
    result does not depend on how tokens were split into batches, as long as they come in order.

    `floor`, per latent, is a value that n images of lower numbers reach: pairs that do not exceed it are left out, so
    there may be fewer than n. After the first images few pairs exceed the kept ones: nearly all work is one comparison a pair.
    """

    value: Float32[np.ndarray, "n_latents n"]
    example: Int64[np.ndarray, "n_latents n"]
    token: Int64[np.ndarray, "n_latents n"]

    def __init__(self, n_latents: int, n: int, floor: Float32[np.ndarray, " n_latents"] | None = None):
        self.n = n
        self.value = np.zeros((n_latents, n), np.float32)
        self.example = np.full((n_latents, n), NONE, np.int64)
        self.token = np.full((n_latents, n), NONE, np.int64)
        self.least = np.zeros(n_latents, np.float32) if floor is None else floor.copy()
        self.pending: list[tuple[np.ndarray, ...]] = []  # (latent, value, example, token)

    def update(
        self,
        latent: Int[np.ndarray, " pairs"],
        value: Float32[np.ndarray, " pairs"],
        example: Int[np.ndarray, " pairs"],
        token: Int[np.ndarray, " pairs"],
    ) -> None:
        """Add pairs of latent and value, with the image and the token (within the image) of each."""
        better = np.flatnonzero(value > self.least[latent])
        self.pending.append(tuple(field[better] for field in (latent, value, example, token)))
        if sum(len(pairs[0]) for pairs in self.pending) > BUFFER:
            self.settle()

    def settle(self) -> None:
        """Merge the collected pairs; to be called before anything is read."""
        if not self.pending:
            return
        latent, value, example, token = (np.concatenate(fields) for fields in zip(*self.pending, strict=True))
        self.pending = []
        touched = np.zeros(len(self.value), bool)
        touched[latent] = True
        before, *kept = self._kept(touched)
        latent = np.concatenate([before, latent.astype(np.int64)])
        value, example, token = (np.concatenate(pair) for pair in zip(kept, (value, example, token), strict=True))
        order, rank = ranked(latent, value, example)
        order, rank = order[rank < self.n], rank[rank < self.n]
        entries = latent[order], rank
        self.value[entries], self.example[entries], self.token[entries] = value[order], example[order], token[order]
        self.least = np.maximum(self.least, self.value[:, -1])

    def merge(self, other: "TopExamples") -> None:
        """Add the top images among images of higher numbers; `other` has settled."""
        self.update(*other._kept(np.ones(len(other.value), bool)))

    def _kept(self, chosen: Bool[np.ndarray, " n_latents"]) -> tuple[np.ndarray, ...]:
        """(latent, value, example, token) of the kept pairs of the chosen latents."""
        entries = np.nonzero((self.example != NONE) & chosen[:, None])
        return entries[0], self.value[entries], self.example[entries], self.token[entries]


def ranked(
    latent: Int64[np.ndarray, " pairs"], value: Float32[np.ndarray, " pairs"], example: Int64[np.ndarray, " pairs"]
) -> tuple[Int64[np.ndarray, " best"], Int64[np.ndarray, " best"]]:
    """The best pair of each latent and image: its index, by latent and descending value; and its rank in its latent.

    >>> ranked(np.array([5, 5, 5]), np.array([1, 2, 3], np.float32), np.array([7, 7, 8]))
    (array([2, 1]), array([0, 1]))
    """
    group = latent * (int(example.max(initial=0)) + 1) + example
    order = np.lexsort((-value, group))  # stable, so of equal values the token seen first comes first
    order = order[np.diff(group[order], prepend=-1) != 0]
    order = order[np.lexsort((-value[order], latent[order]))]  # and the image of the lower number
    by_latent = latent[order]
    return order, np.arange(len(order)) - np.searchsorted(by_latent, by_latent)
