"""Activations that are computed when a stream asks for them, behind the interface of a recording; nothing is stored."""

import abc
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Shaped

from saev.shards.location import Location
from saev.shards.manifest import Manifest
from saev.shards.moments import ByRole, by_role
from saev.shards.reader import ActivationStore
from saev.shards.remote import Closed
from saev.shards.selection import Spans

WHOLE = 1 << 30  # as stripe: an image's tokens stay together, so that it is computed once per epoch
SAMPLE = 256  # images whose tokens determine mean and variance


class ComputedStore(ActivationStore, abc.ABC):
    """A recording that is not written: `compute` gives an image's tokens. Every image has `n_tokens`.

    `where`: the directory that the recording would have. Mean and variance are those of the first `SAMPLE` images in an order that
    `seed` determines.
    """

    def __init__(self, where: Path, manifest: Manifest, n_tokens: int, seed: int = 0):
        self.location, self.root, self.manifest = Location(where), where, manifest
        self.d_model, self.layers, self.n_tokens, self.seed = manifest.d_model, manifest.layers, n_tokens, seed
        self._codecs = {}
        self._moments: dict[int, ByRole] = {}

    @abc.abstractmethod
    def compute(
        self, layer: int, images: Int64[np.ndarray, " images"]
    ) -> Generator[Float[np.ndarray, "tokens d_model"], None, None]:
        """The tokens of each of these images, in their order, in the stored dtype."""

    def tokens_per_image(self, layer: int) -> Int64[np.ndarray, " n_examples"]:
        return np.full(self.manifest.n_examples, self.n_tokens)

    def role_moments(self, layer: int) -> ByRole:
        if layer not in self._moments:
            order = np.random.default_rng(self.seed).permutation(self.manifest.n_examples)
            acts = list(self.compute(layer, np.sort(order[:SAMPLE])))
            self._moments[layer] = by_role(acts, self.manifest.roles, self.d_model)
        return self._moments[layer]


class ComputedRows:
    """Fills a window by computing its images; an image that two windows divide is computed in both, as after a resume."""

    def __init__(self, store: ActivationStore, layer: int, closing: Callable[[], bool]):
        if not isinstance(store, ComputedStore):
            raise ValueError(f"datamodule.reader=live: {store.location.root} is recorded; use datamodule.reader=auto.")
        self.store, self.layer, self.closing = store, layer, closing

    def fill(self, spans: Spans, rows: Shaped[np.ndarray, "tokens width"]) -> None:
        """The tokens of the spans, which are sorted by image, one after the other in `rows`."""
        images, first = np.unique(spans.example, return_index=True)
        ends = [*first[1:].tolist(), len(spans.example)]
        at = 0
        with closing(self.store.compute(self.layer, images)) as computed:
            for low, high, acts in zip(first.tolist(), ends, computed, strict=True):
                if self.closing():
                    raise Closed
                for start, stop in zip(spans.start[low:high].tolist(), spans.stop[low:high].tolist(), strict=True):
                    rows[at : at + stop - start] = acts[start:stop]
                    at += stop - start

    def close(self) -> None:
        """Nothing is open between windows."""
