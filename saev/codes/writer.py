"""Encoding: shards are complete or absent, and an interrupted encoding resumes at the next missing one.

shard i = the selected tokens of shard i of the activations
000000.{indptr,indices,values}.npy.part -> fsync -> 000000.{indptr,indices,values}.npy
shard-000000.safetensors: its latents' statistics; shard-000000.json written last: this shard is encoded
finish(): the statistics of all shards -> latents.parquet, runs.npy, manifest.json with complete = true
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from saev.codes.latents import LatentStatistics
from saev.codes.manifest import LATENTS, RUNS, CodesManifest
from saev.codes.shard_writer import ShardWriter
from saev.files import replacing, sha256, write_atomically
from saev.shards.manifest import FILE
from saev.shards.merging import MERGED, complete, sidecar_path
from saev.shards.selection import Spans
from saev.shards.tar import npy


class CodeWriter:
    """Writes a directory of codes below `parent`; see the module's picture. `finish` completes it.

    Args:
        manifest: of the codes still to be computed; it names the directory.
        runs, rows: the selected tokens, and their number in each shard of the activations.
    """

    def __init__(self, parent: Path, manifest: CodesManifest, runs: Spans, rows: Int64[np.ndarray, " shards"]):
        self.root, self.manifest, self.runs, self.rows = parent / manifest.name, manifest, runs, rows
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
        write_atomically(self.root / RUNS, npy(np.stack(self.runs, axis=1)))
        dataclasses.replace(
            self.manifest,
            nnz=sum(entry["nnz"] for entry in entries),
            shards=tuple(entries),
            files={name: sha256(self.root / name) for name in (LATENTS, RUNS)},
            complete=True,
        ).save(self.root, MERGED)


def statistics_path(root: Path, shard: int) -> Path:
    """The file of a shard's statistics."""
    return root / f"shard-{shard:06d}.safetensors"
