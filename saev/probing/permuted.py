"""The null of permuted labels: each image has those of another one."""

import numpy as np
from jaxtyping import Int, Int64

from saev.probing.labels import Labels, LabelValues
from saev.shards.selection import Spans, positions


class PermutedLabels:
    """Each image of a split has the labels of another image, position by position.

    Classes keep their frequency, their spatial extent and their positions (a latent that responds to a position can score above
    chance), and are independent of the image. A token beyond the other image's tokens has the label at its position modulo
    their number; positions count from `start`, the first of the probed tokens.
    ValueError for a single image, which would keep its own labels.
    """

    def __init__(
        self,
        labels: Labels,
        images: Int64[np.ndarray, " images"],
        tokens: Int64[np.ndarray, " n"],
        seed: int,
        start: int = 0,
    ):
        if len(images) < 2:
            raise ValueError("nulls=[permuted] exchanges the labels of images, and there is only one: give nulls=[].")
        self.labels, self.exclusive, self.n_classes = labels, labels.exclusive, labels.n_classes
        self.ignored, self.labelled, self.tokens, self.start = labels.ignored, labels.labelled, tokens, start
        self.other = np.arange(len(tokens))
        order = np.random.default_rng(seed).permutation(images)
        self.other[order] = np.roll(order, 1)  # a single cycle: no image keeps its labels

    def of(self, example: Int[np.ndarray, " batch"], token: Int[np.ndarray, " batch"]) -> LabelValues:
        other = self.other[example]
        n_tokens = np.maximum(self.tokens[other] - self.start, 1)
        return self.labels.of(other, self.start + (token - self.start) % n_tokens)

    def counts(self, spans: Spans) -> Int64[np.ndarray, " classes"]:
        span, token = positions(spans)
        values = self.of(spans.example[span], token)
        if values.ndim == 2:
            return values.sum(0)
        return np.bincount(values[values >= 0], minlength=self.n_classes + 1)[: self.n_classes]

    def left_out(self, spans: Spans) -> dict[str, int]:
        return self.labels.left_out(spans)
