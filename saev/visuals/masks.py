"""Which class a latent's strongest patch of an image is of, and the patches of that class, where the recording has patch labels."""

from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from saev.shards import ActivationStore
from saev.shards.manifest import VOID


class Masks:
    """The patch labels of a recording."""

    def __init__(self, store: ActivationStore):
        self.store = store

    @cached_property
    def _first(self) -> np.ndarray:
        """The number of each image's first token."""
        tokens = self.store.examples["n_tokens"].fill_null(0).to_numpy()
        return np.cumsum(tokens) - tokens

    def at_peak(
        self, example: int, codes: Float[np.ndarray, "grid_h grid_w"]
    ) -> tuple[str, Bool[np.ndarray, "grid_h grid_w"]] | None:
        """(class of the patch with the highest code, whether each patch is of it); None without labels, or where that patch is
        background or not annotated."""
        about = self.store.manifest.labels
        if about is None or self.store.token_labels is None:
            return None
        start = int(self._first[example]) + self.store.role_slice("patches")[0]
        labels = self.store.token_labels[start : start + codes.size].reshape(codes.shape)
        number = int(labels.flat[int(np.nanargmax(codes))])
        if number == VOID or number in about.get("background", ()):
            return None
        return about.get("classes", {}).get(str(number), f"class {number}"), labels == number
