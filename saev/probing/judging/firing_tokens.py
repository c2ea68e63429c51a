"""The validation tokens on which the columns fire, for intervals over images."""

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from saev.ops.sparse import SparseCodes
from saev.probing.counts.class_codes import Labels, labelled_tokens
from saev.probing.judging.bootstrap import ColumnCodes


class FiringTokens:
    """The columns' non-zero codes of one dictionary, and the labels and images of all validation tokens.

    Memory: 16 bytes per non-zero code (twice that while `finish` sorts), and per token its labels and 4 bytes.
    """

    def __init__(self, n_images: int):
        self.n_images, self.n_tokens = n_images, 0
        self.parts: dict[str, list[np.ndarray]] = {name: [] for name in ("row", "column", "value", "labels", "image")}

    def update(
        self,
        codes: SparseCodes,
        labels: Labels,
        image: Int[Tensor, " tokens"],
        counted: Bool[Tensor, " tokens"] | None = None,
    ) -> None:
        """Add a batch; unlabelled tokens are left out. `image` is 0 to n_images - 1."""
        known = labelled_tokens(labels, counted).cpu()
        row = torch.repeat_interleave(codes.offsets.diff(), output_size=len(codes.latents)).cpu()
        place = known.cumsum(0) - 1 + self.n_tokens
        kept = known[row] & (codes.values != 0).cpu()
        for name, part in (
            ("row", place[row[kept]]),
            ("column", codes.latents.cpu()[kept].int()),
            ("value", codes.values.cpu()[kept].float()),
            ("labels", labels.cpu()[known]),
            ("image", image.cpu()[known].int()),
        ):
            self.parts[name].append(part.numpy())
        self.n_tokens += int(known.sum())

    def finish(self) -> None:
        """Join the batches and sort them by column."""
        joined = {name: np.concatenate(self.parts.pop(name)) for name in list(self.parts)}
        order = np.argsort(joined["column"], kind="stable")
        self.row, self.column, self.value = (joined.pop(name)[order] for name in ("row", "column", "value"))
        self.labels, self.image = joined["labels"], joined["image"]
        self.tokens = np.bincount(self.image, minlength=self.n_images)

    def of_class(self, number: int) -> Bool[np.ndarray, " tokens"]:
        """Which tokens are of a class."""
        return self.labels == number if self.labels.ndim == 1 else self.labels[:, number]

    def positives(self, number: int) -> Int64[np.ndarray, " images"]:
        """Tokens of a class in each image."""
        return np.bincount(self.image[self.of_class(number)], minlength=self.n_images)

    def of(self, column: int, number: int) -> ColumnCodes:
        """The codes of one column, with the labels of one class."""
        block = slice(*np.searchsorted(self.column, [column, column + 1]))
        rows = self.row[block]
        return ColumnCodes(
            self.value[block],
            self.of_class(number)[rows],
            self.image[rows].astype(np.int64),
            self.tokens,
            self.positives(number),
        )
