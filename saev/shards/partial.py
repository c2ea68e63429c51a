"""What is on disk of a shard that is being written, saved every half minute, so that a killed recording continues within it.

layer-08/000000.tar.part           entries; those up to the saved byte are complete
shard-000000.part.safetensors      the saved byte, index and moments of each layer, the images' rows, their tokens' labels
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from saev.files import write_atomically
from saev.shards.manifest import layer_dir
from saev.shards.moments import ByRole, fields_of, moments_in


@dataclasses.dataclass(frozen=True)
class LayerState:
    """A layer's tar: its first `at` bytes are written and hold the entries of `rows`, which have these moments."""

    at: int
    rows: list[tuple[int, int, int]]
    moments: ByRole


@dataclasses.dataclass(frozen=True)
class Partial:
    """The images of a shard that are on disk at every layer."""

    layers: Mapping[int, LayerState]
    rows: list[dict[str, Any]]  # of examples.parquet
    labels: np.ndarray
    fractions: np.ndarray

    def save(self, path: Path) -> None:
        """Write atomically."""
        tensors = {"labels": self.labels, "fractions": self.fractions}
        for layer, state in self.layers.items():
            tensors[f"{layer}.rows"] = np.array(state.rows, np.int64).reshape(-1, 3)
            tensors |= fields_of(state.moments, f"{layer}.")
        ends = {layer: state.at for layer, state in self.layers.items()}
        write_atomically(path, save(tensors, {"state": json.dumps({"rows": self.rows, "ends": ends})}))


def partial_path(root: Path, shard: int) -> Path:
    """The file with the state of an unfinished shard."""
    return root / f"shard-{shard:06d}.part.safetensors"


def load_partial(root: Path, shard: int) -> Partial | None:
    """The state of an unfinished shard; None where there is none, or not all of its files."""
    try:
        with safe_open(partial_path(root, shard), "numpy") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no mapping
    except (OSError, SafetensorError):
        return None
    layers = {}
    for name, at in state["ends"].items():
        tar = root / layer_dir(int(name)) / f"{shard:06d}.tar"
        part = tar.with_name(f"{tar.name}.part")
        if not part.is_file() and tar.is_file():  # killed while the shard was committed
            tar.replace(part)
        if not part.is_file() or part.stat().st_size < at:
            return None
        rows = [(example, offset, n) for example, offset, n in tensors[f"{name}.rows"].tolist()]
        layers[int(name)] = LayerState(at, rows, moments_in(tensors, f"{name}."))
    return Partial(layers, state["rows"], tensors["labels"], tensors["fractions"])
