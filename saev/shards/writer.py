"""Recording: shards appear whole or not at all, and a recording stops and resumes at any of them.

shard i = images [i * n, (i + 1) * n) of the recording order, for every layer
layer-08/000000.tar.part -> fsync -> layer-08/000000.tar (+ .idx.npy, .stats.safetensors)
shard-000000.json written last: this shard is recorded
finish(): sidecars -> examples.parquet, stats.safetensors, manifest.json with complete = true
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from saev.shards.layer_shard import LayerShard, layer_dir
from saev.shards.manifest import Manifest, write_atomically
from saev.shards.moments import load_moments, merge_roles, save_moments

EXAMPLES = "examples.parquet"


def all_finite(values: Shaped[np.ndarray, "..."]) -> bool:
    """Whether no value is NaN or infinite; float16 by its exponent bits, which is ten times as fast as np.isfinite."""
    if values.dtype == np.float16:
        return bool(((values.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.isfinite(values).all())


class ShardWriter:
    """The images of one shard, in every layer; made by `RecordingWriter.shard`."""

    def __init__(self, examples: range, layers: Mapping[int, LayerShard], dtype: str):
        self.examples, self.layers, self.dtype = examples, layers, np.dtype(dtype)
        self.rows: list[dict[str, Any]] = []

    def add(self, index: int, acts: Mapping[int, np.ndarray], row: Mapping[str, Any]) -> None:
        """Append image `index`: acts[layer] is [tokens, d_model], `row` its line of examples.parquet.

        Raises ValueError where a value is not finite or does not fit the dtype.
        """
        assert index in self.examples and set(acts) == set(self.layers)
        converted = {layer: self._convert(acts[layer], layer, row) for layer in self.layers}
        for layer, values in converted.items():
            self.layers[layer].add(index, values)
        n_tokens = len(next(iter(converted.values())))
        self.rows.append({"index": index, **row, "n_tokens": n_tokens, "error": None})

    def skip(self, index: int, error: str, row: Mapping[str, Any]) -> None:
        """Note that image `index` could not be read: it keeps its row, with no tokens."""
        self.rows.append({"index": index, **row, "n_tokens": 0, "error": error})

    def _convert(self, acts: np.ndarray, layer: int, row: Mapping[str, Any]) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(acts, self.dtype)
        if all_finite(values):
            return values
        if np.isfinite(acts).all():
            raise ValueError(
                f"layer {layer} of {row.get('path')!r} reaches {np.abs(acts).max():.4g}, beyond the range of {self.dtype}: "
                "record with record.dtype=float32."
            )
        raise ValueError(
            f"layer {layer} of {row.get('path')!r} has NaN or infinite activations: check the backbone's weights, "
            "or record with record.autocast=false if it ran in half precision."
        )


class RecordingWriter:
    """A directory of activations in the making; see the module's picture. `finish` makes it whole."""

    def __init__(
        self,
        root: Path,
        meaning: Mapping[str, Any],
        n_examples: int,
        examples_per_shard: int,
        layers: Sequence[int],
        roles: Mapping[str, int],
        d_model: int,
        dtype: str = "float16",
    ):
        self.root = root
        self.manifest = Manifest(
            meaning=dict(meaning),
            layers=tuple(sorted(layers)),
            roles=dict(roles),
            d_model=d_model,
            dtype=dtype,
            n_examples=n_examples,
            examples_per_shard=examples_per_shard,
        )
        root.mkdir(parents=True, exist_ok=True)
        if (root / "manifest.json").is_file():
            self._check_same(Manifest.load(root))
        else:
            self.manifest.save(root)

    def _check_same(self, found: Manifest) -> None:
        if found.complete:
            raise ValueError(
                f"{self.root} holds a complete dataset: it is never overwritten; delete it to record again."
            )
        if (found.meaning, found.layers, found.examples_per_shard) != (
            json.loads(json.dumps(self.manifest.meaning)),
            self.manifest.layers,
            self.manifest.examples_per_shard,
        ):
            raise ValueError(
                f"{self.root} holds the beginning of another recording: delete it or choose another directory."
            )

    @property
    def n_shards(self) -> int:
        """Shards of one layer."""
        return -(-self.manifest.n_examples // self.manifest.examples_per_shard)

    def examples_of(self, shard: int) -> range:
        """The image numbers (positions in the recording order) of a shard."""
        size = self.manifest.examples_per_shard
        return range(shard * size, min((shard + 1) * size, self.manifest.n_examples))

    def pending(self, part: int = 0, n_parts: int = 1) -> list[int]:
        """The shards of this part that are not recorded yet."""
        return [i for i in range(part, self.n_shards, n_parts) if not self._sidecar(i).is_file()]

    def _sidecar(self, shard: int) -> Path:
        return self.root / f"shard-{shard:06d}.json"

    @contextmanager
    def shard(self, i: int) -> Iterator[ShardWriter]:
        """Open shard i for writing: committed when the block ends, discarded without a trace when it raises."""
        m = self.manifest
        with ExitStack() as undo:
            files = {}
            for layer in m.layers:
                files[layer] = LayerShard(self.root / layer_dir(layer) / f"{i:06d}.tar", m.roles, m.d_model, m.dtype)
                undo.callback(files[layer].discard)
            shard = ShardWriter(self.examples_of(i), files, m.dtype)
            yield shard
            assert [row["index"] for row in shard.rows] == list(shard.examples), "every image once, in order"
            record = {"examples": shard.rows, "shards": [files[layer].commit() for layer in m.layers]}
            write_atomically(self._sidecar(i), json.dumps(record).encode())

    def finish(self) -> Path | None:
        """Merge the sidecars into the final tables and mark the dataset complete; None while shards are missing.

        Parts that end together may both get here: they write the same bytes, and the later one finds the work done.
        """
        if Manifest.load(self.root).complete:
            return self.root
        try:
            return None if self.pending() else self._merge()
        except FileNotFoundError:  # another part has merged the sidecars and removed them meanwhile
            if not Manifest.load(self.root).complete:
                raise
            return self.root

    def _merge(self) -> Path:
        import polars as pl  # heavy, needed once

        m = self.manifest
        records = [json.loads(self._sidecar(i).read_text()) for i in range(self.n_shards)]
        shards = tuple(entry for at in range(len(m.layers)) for entry in (r["shards"][at] for r in records))
        table = pl.DataFrame([row for r in records for row in r["examples"]], infer_schema_length=None)
        n_tokens = int(table["n_tokens"].sum())
        if n_tokens == 0:
            raise ValueError(
                f"{self.root}: none of the {m.n_examples} images could be read; first error: {table['error'][0]}"
            )
        temporary = self.root / f"{EXAMPLES}.tmp"
        table.write_parquet(temporary)
        temporary.replace(self.root / EXAMPLES)
        for layer in m.layers:
            stats = [self.root / layer_dir(layer) / f"{i:06d}.stats.safetensors" for i in range(self.n_shards)]
            save_moments(
                self.root / layer_dir(layer) / "stats.safetensors", reduce(merge_roles, map(load_moments, stats))
            )
        fields = {**m.__dict__, "n_tokens": n_tokens, "shards": shards, "complete": True}
        Manifest(**fields).save(self.root)
        for i in range(self.n_shards):
            self._sidecar(i).unlink(missing_ok=True)
            for layer in m.layers:
                (self.root / layer_dir(layer) / f"{i:06d}.stats.safetensors").unlink(missing_ok=True)
        return self.root
