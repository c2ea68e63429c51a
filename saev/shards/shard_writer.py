"""Writing the images of one shard to its tars, its table and its labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Shaped, UInt16
from safetensors.numpy import load_file, save

from saev.files import write_atomically
from saev.shards.layer_shard import LayerShard


class ShardWriter:
    """Takes the images of one shard, at every layer; created by `RecordingWriter.shard`."""

    def __init__(self, examples: range, layers: Mapping[int, LayerShard], labelled: bool):
        self.examples, self.layers, self.labelled = examples, layers, labelled
        self.rows: list[dict[str, Any]] = []
        self.labels: list[np.ndarray] = [np.empty(0, np.uint16)]
        self.fractions: list[np.ndarray] = [np.empty(0, np.float16)]

    def add(
        self,
        index: int,
        acts: Mapping[int, Shaped[np.ndarray, "tokens d_model"]],
        row: Mapping[str, Any],
        labels: UInt16[np.ndarray, " tokens"] | None = None,
        fractions: Float16[np.ndarray, " tokens"] | None = None,
    ) -> None:
        """Append image `index`: its activations by layer, its row of examples.parquet, its tokens' labels and fractions.

        Labels and fractions cover all stored tokens in stored order (cls and registers: 65535 and 0); they are given if
        and only if the recording has labels. Arrays are copied. Raises ValueError, now or at the end of the shard, for
        a value that is not finite or does not fit the dtype.
        """
        assert index in self.examples and set(acts) == set(self.layers)
        assert (labels is not None) == (fractions is not None) == self.labelled, "labels for all images or for none"
        n_tokens = {len(values) for values in acts.values()}
        assert len(n_tokens) == 1, "layers differ in their number of tokens"
        if labels is not None and fractions is not None:
            assert {len(labels)} == {len(fractions)} == n_tokens, "one label and one fraction per stored token"
            self.labels.append(labels.copy())
            self.fractions.append(fractions.copy())
        for layer, shard in self.layers.items():
            shard.add(index, acts[layer], str(row.get("path")))
        self.rows.append({"index": index, **row, "n_tokens": n_tokens.pop(), "error": None})

    def skip(self, index: int, error: str, row: Mapping[str, Any]) -> None:
        """Add the row of an unreadable image, without tokens and labels."""
        self.rows.append({"index": index, **row, "n_tokens": 0, "error": error})

    def save_labels(self, path: Path) -> None:
        """Write the labels and fractions of the shard's tokens."""
        arrays = {"labels": np.concatenate(self.labels), "fractions": np.concatenate(self.fractions)}
        write_atomically(path, save(arrays))


def load_labels(path: Path, kind: str) -> Shaped[np.ndarray, " tokens"]:
    """`labels` or `fractions` out of a file of `save_labels`."""
    return load_file(path)[kind]
