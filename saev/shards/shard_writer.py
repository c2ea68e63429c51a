"""Writing the images of one shard to its tars, its table and its labels."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Shaped, UInt16
from safetensors.numpy import load_file, save

from saev.files import write_atomically
from saev.shards.layer_shard import LayerShard
from saev.shards.partial import Partial


class ShardWriter:
    """Takes the images of one shard, at every layer; created by `RecordingWriter.shard`; `path` and `saved`: its state."""

    SAVE_EVERY_S = 30.0

    def __init__(
        self,
        examples: range,
        layers: Mapping[int, LayerShard],
        labelled: bool,
        path: Path,
        saved: Partial | None = None,
    ):
        self.examples, self.layers, self.labelled, self.path = examples, layers, labelled, path
        self.rows: list[dict[str, Any]] = [*saved.rows] if saved else []
        self.labels: list[np.ndarray] = [saved.labels if saved else np.empty(0, np.uint16)]
        self.fractions: list[np.ndarray] = [saved.fractions if saved else np.empty(0, np.float16)]
        self.saved_at = time.monotonic()
        self.n_first = self.n_saved = len(
            next(iter(layers.values())).rows
        )  # entries to which labels[0] belongs; saved ones

    @property
    def next(self) -> int:
        """The image to be added next; those before it are stored, some of them perhaps by an interrupted process."""
        return self.examples.start + len(self.rows)

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
        if index < self.next:
            return
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
        if index < self.next:
            return
        self.rows.append({"index": index, **row, "n_tokens": 0, "error": error})

    def save_partial(self) -> None:
        """Save what is on disk, at most every SAVE_EVERY_S seconds, so that a killed process loses little."""
        if time.monotonic() - self.saved_at < self.SAVE_EVERY_S:
            return
        states = {layer: shard.flush() for layer, shard in self.layers.items()}
        n = min(len(state.rows) for state in states.values())
        assert all(len(state.rows) == n for state in states.values()), "blocks are alike at all layers"
        if n > self.n_saved:
            last = next(iter(states.values())).rows[-1][0]
            rows = [row for row in self.rows if row["index"] <= last]
            labels, fractions = (
                np.concatenate(all_of[: 1 + n - self.n_first]) for all_of in (self.labels, self.fractions)
            )
            Partial(states, rows, labels, fractions).save(self.path)
            self.n_saved = n
        self.saved_at = time.monotonic()

    def save_labels(self, path: Path) -> None:
        """Write the labels and fractions of the shard's tokens."""
        arrays = {"labels": np.concatenate(self.labels), "fractions": np.concatenate(self.fractions)}
        write_atomically(path, save(arrays))


def load_labels(path: Path, kind: str) -> Shaped[np.ndarray, " tokens"]:
    """`labels` or `fractions` out of a file of `save_labels`."""
    return load_file(path)[kind]
