"""Writing codes: shards are complete or absent, and an interrupted encoding resumes at the next missing one.

shard i = the selected tokens of shard i of the activations
000000.{indptr,indices,values}.npy.part -> fsync -> 000000.{indptr,indices,values}.npy
shard-000000.safetensors: its latents' statistics; shard-000000.json written last: this shard is encoded
finish(): the statistics of all shards -> latents.parquet, spans.npy; the views by latent and by image; manifest.json with
complete = true
"""

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saev.codes.arrays import GrowingArray, array_path
from saev.codes.by_image import write_by_image
from saev.codes.by_latent import write_by_latent
from saev.codes.latents import LatentStatistics
from saev.codes.manifest import ARRAYS, LATENTS, SPANS, CodesManifest
from saev.codes.pairs import narrowed
from saev.codes.settings import VIEWS
from saev.files import replacing, sha256, write_atomically
from saev.ops.sparse import SparseCodes
from saev.shards.layer_shard import all_finite
from saev.shards.manifest import FILE
from saev.shards.merging import MERGED, complete, sidecar_path
from saev.shards.selected_tokens import Selection
from saev.shards.tar import npy


class ShardWriter:
    """The rows of one shard, added in order; see `CodeWriter.shard`. `name` is the dictionary's, for errors."""

    def __init__(self, root: Path, number: int, statistics: LatentStatistics, dtype: str, name: str):
        for file in root.glob(f"{number:06d}.*"):  # of a process that was killed while it wrote this shard
            file.unlink(missing_ok=True)
        self.statistics, self.name, self.dtype = statistics, name, getattr(torch, dtype)
        kinds = {"indptr": "int64", "indices": "int32", "values": dtype}
        self.arrays = {array: GrowingArray(array_path(root, number, array), kinds[array]) for array in ARRAYS}
        self.nnz = 0
        self.arrays["indptr"].append(np.zeros(1, np.int64))

    @property
    def tokens(self) -> int:
        """Rows added."""
        return self.arrays["indptr"].n - 1

    def add(self, codes: SparseCodes, example: Int[np.ndarray, " rows"], token: Int[np.ndarray, " rows"]) -> None:
        """Append rows: their codes, on any device, and the image and the token (within the image) of each.

        ValueError where a code is not finite or exceeds the dtype.
        """
        stored = narrowed(codes.values, self.dtype).cpu().numpy()
        if not all_finite(stored):
            raise ValueError(self._not_finite(codes.values))
        offsets, latents = codes.offsets.long().cpu().numpy(), codes.latents.int().cpu().numpy()
        values = codes.values.float().cpu().numpy()
        self.statistics.update(offsets, latents, values, example, token)
        for name, array in (("indptr", self.nnz + offsets[1:]), ("indices", latents), ("values", stored)):
            self.arrays[name].append(array)
        self.nnz += len(stored)

    def _not_finite(self, values: Tensor) -> str:
        if not torch.isfinite(values).all():
            return f"{self.name} has codes that are NaN or infinite: it has diverged; leave it out or train it again."
        return (
            f"{self.name} has a code of {values.abs().max().item():.4g}, beyond the range of float16 (65504): encode with "
            "dtype=float32."
        )

    def commit(self) -> tuple[dict[str, Any], LatentStatistics]:
        """Complete the arrays; the shard's entry in the manifest, and the statistics of its latents."""
        entry = {"tokens": self.tokens, "nnz": self.nnz, "sha256": {}}
        entry["sha256"] = {name: array.commit() for name, array in self.arrays.items()}
        self.statistics.top.settle()
        return entry, self.statistics

    def discard(self) -> None:
        """Delete the shard's files."""
        for array in self.arrays.values():
            array.discard()


class CodeWriter:
    """Writes a directory of codes below `parent`; see the module's picture. `finish` completes it.

    Args:
        manifest: of the codes still to be computed; it names the directory.
        selection: the tokens.
        views: what `finish` leaves: token (the shards), latent, image.
    """

    def __init__(self, parent: Path, manifest: CodesManifest, selection: Selection, views: Collection[str] = VIEWS):
        self.root, self.manifest, self.selection, self.views = parent / manifest.name, manifest, selection, views
        self.rows = selection.rows
        self._floor: np.ndarray | None = None  # see TopExamples
        self.root.mkdir(parents=True, exist_ok=True)
        if not (self.root / FILE).is_file():
            manifest.save(self.root)
        elif CodesManifest.load(self.root).identity != manifest.identity:
            raise ValueError(f"{self.root} holds other codes: delete it, or choose another directory, out=/a/folder.")

    @property
    def complete(self) -> bool:
        """Whether all shards are encoded and merged."""
        return CodesManifest.load(self.root).complete

    def pending(self, part: int = 0, n_parts: int = 1) -> list[int]:
        """The shards of this part that are not encoded yet."""
        if (self.root / MERGED).is_file() or self.complete:
            return []
        return [i for i in range(part, len(self.rows), n_parts) if not sidecar_path(self.root, i).is_file()]

    @contextmanager
    def shard(self, number: int) -> Iterator[ShardWriter]:
        """A shard to which its rows are added in order; complete when the block ends, deleted when it raises.

        Shards are written in ascending order: top images of earlier shards bound those of later ones.
        """
        m = self.manifest
        statistics = LatentStatistics(m.n_latents, floor=self._floor)
        out = ShardWriter(self.root, number, statistics, m.dtype, m.dictionary["path"])
        try:
            yield out
            assert out.tokens == self.rows[number], "every selected token once"
            entry, statistics = out.commit()
            statistics.save(statistics_path(self.root, number))
            write_atomically(sidecar_path(self.root, number), json.dumps(entry).encode())
            self._floor = statistics.top.least
        except BaseException:
            out.discard()
            raise

    def finish(self) -> bool:
        """Merge the statistics of all shards and mark the codes complete; False while shards are missing.

        Parts that end together may both get here: the later one returns True at once. After a kill the next `finish`
        resumes.
        """
        if self.complete:
            return True
        try:
            if self.pending():
                return False
            if not (self.root / MERGED).is_file():
                self._merge()
            complete(self.root)
            if "token" not in self.views:
                for shard, name in itertools.product(range(len(self.rows)), ARRAYS):
                    array_path(self.root, shard, name).unlink(missing_ok=True)
        except FileNotFoundError:  # another part has merged and removed the shards' files meanwhile
            if not self.complete:
                raise
        return True

    def _merge(self) -> None:
        shards = range(len(self.rows))
        entries = [json.loads(sidecar_path(self.root, i).read_text()) for i in shards]
        statistics = LatentStatistics(self.manifest.n_latents)
        for i in shards:
            statistics.merge(LatentStatistics.load(statistics_path(self.root, i)))
        with replacing(self.root / LATENTS) as file:
            statistics.table(self.manifest.n_tokens).write_parquet(file)
        write_atomically(self.root / SPANS, npy(np.stack(self.selection.spans, axis=1)))
        files = {name: sha256(self.root / name) for name in (LATENTS, SPANS)}
        n_latents = self.manifest.n_latents
        if "latent" in self.views:
            files |= write_by_latent(self.root, n_latents, self.rows.tolist(), self.manifest.dtype)
        if "image" in self.views:
            files |= write_by_image(self.root, self.selection, n_latents)
        dataclasses.replace(
            self.manifest,
            nnz=sum(entry["nnz"] for entry in entries),
            shards=tuple(entries),
            files=files,
            views=tuple(view for view in VIEWS if view in self.views),
            complete=True,
        ).save(self.root, MERGED)


def statistics_path(root: Path, shard: int) -> Path:
    """The file of a shard's statistics."""
    return root / f"shard-{shard:06d}.safetensors"
