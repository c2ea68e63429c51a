"""Reading codes: any rows of a directory of CSR shards, memory-mapped."""

import os
from bisect import bisect_left, bisect_right
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64, Shaped

from saev.codes.manifest import ARRAYS, LATENTS, SPANS, CodesManifest, array_path
from saev.files import read_parquet, sha256
from saev.ops.sparse import SparseCodes
from saev.shards.merging import sidecar_path
from saev.shards.selection import Spans, positions
from saev.shards.verify import differing

if TYPE_CHECKING:
    import polars as pl
    from scipy.sparse import csr_matrix

REMEDY = "restore it, or delete the directory and encode again"


class CodeRows(NamedTuple):
    """Rows in CSR: row r has `latents[offsets[r]:offsets[r + 1]]`, ascending, with those `values`.

    Within a shard, latents and values are read-only views of the files.
    """

    offsets: Int64[np.ndarray, " rows_and_1"]
    latents: Int32[np.ndarray, " nnz"]
    values: Shaped[np.ndarray, " nnz"]
    n_latents: int

    def scipy(self) -> "csr_matrix":
        """float32 [rows, n_latents]."""
        from scipy.sparse import csr_matrix

        shape = len(self.offsets) - 1, self.n_latents
        return csr_matrix((self.values.astype(np.float32), self.latents, self.offsets), shape=shape)

    def torch(self) -> SparseCodes:
        """float32 values in the library's own CSR: `.dense(n_latents)`, or decoded by `saev.ops.sparse.decode_sparse`."""
        values = self.values.astype(np.float32)
        return SparseCodes(*(torch.from_numpy(a) for a in (self.offsets, self.latents.astype(np.int64), values)))

    def dense(self) -> Float[np.ndarray, "rows n_latents"]:
        """float32 [rows, n_latents], with zeros."""
        out = np.zeros((len(self.offsets) - 1, self.n_latents), np.float32)
        out[np.repeat(np.arange(len(out)), np.diff(self.offsets)), self.latents] = self.values
        return out


class CodeStore:
    """The codes of one dictionary on one recording, a row per selected token in the dataset's order.

    ValueError for a directory that is not complete.
    """

    def __init__(self, root: str | os.PathLike):
        self.root, self.manifest = Path(root), CodesManifest.load(root)
        if not self.manifest.complete:
            encoded = len(list(self.root.glob(sidecar_path(Path(), 0).name.replace("000000", "*"))))
            raise ValueError(
                f"{root} is incomplete ({encoded} shards encoded): run the same `saev encode` command to resume it."
            )
        self.n_latents = self.manifest.n_latents
        # int64 throughout: a directory, or a single shard, may hold more than 2^31 codes
        self._first_row = np.cumsum([0, *(entry["tokens"] for entry in self.manifest.shards)], dtype=np.int64)
        self._mapped: dict[tuple[int, str], np.ndarray] = {}

    def __len__(self) -> int:
        return int(self._first_row[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, n_latents)."""
        return len(self), self.n_latents

    @property
    def nnz(self) -> int:
        """Codes stored."""
        return self.manifest.nnz

    def rows(self, start: int = 0, stop: int | None = None) -> CodeRows:
        """Rows start to stop (excluded; None: to the end). ValueError beyond the rows there are."""
        stop = self._stop(start, stop)
        first = self._first_row.tolist()
        low, high = bisect_right(first, start) - 1, bisect_left(first, stop)
        pieces = [
            self._piece(shard, max(start, first[shard]) - first[shard], min(stop, first[shard + 1]) - first[shard])
            for shard in range(low, high)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return joined(pieces, self.n_latents, self.manifest.dtype)

    def _piece(self, shard: int, start: int, stop: int) -> CodeRows:
        offsets = np.asarray(self.array(shard, "indptr")[start : stop + 1])
        low, high = int(offsets[0]), int(offsets[-1])
        latents, values = (np.asarray(self.array(shard, name)[low:high]) for name in ("indices", "values"))
        return CodeRows(offsets - offsets[0], latents, values, self.n_latents)

    def array(self, shard: int, name: str) -> Shaped[np.ndarray, " n"]:
        """indptr, indices or values of one shard, memory-mapped; ValueError where the file is missing or damaged."""
        if (shard, name) not in self._mapped:
            path, entry = array_path(self.root, shard, name), self.manifest.shards[shard]
            try:
                if sha256(path) != entry["sha256"][name]:
                    raise ValueError("its sha256 is another one than was written")
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise ValueError(f"{path} is missing or damaged ({error}): {REMEDY}.") from error
            length = entry["tokens"] + 1 if name == "indptr" else entry["nnz"]
            if array.shape != (length,):
                raise ValueError(f"{path} holds {array.shape[0]} values instead of {length}: {REMEDY}.")
            self._mapped[shard, name] = array
        return self._mapped[shard, name]

    @cached_property
    def spans(self) -> Spans:
        """The rows as spans of tokens of an image."""
        return Spans(*np.load(self._checked(SPANS), allow_pickle=False).T)

    def tokens(self, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(image, token among the image's stored tokens) of each row from start to stop, int64.

        ValueError beyond the rows there are.
        """
        stop = self._stop(start, stop)
        ends = self._span_ends
        low, high = np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop, "left") + 1
        spans = Spans(*(field[low:high] for field in self.spans))
        span, token = positions(spans)
        skip = start - (int(ends[low - 1]) if low else 0)
        chosen = slice(skip, skip + stop - start)
        return spans.example[span][chosen], token[chosen]

    def _stop(self, start: int, stop: int | None) -> int:
        """`stop`, or the number of rows; ValueError where rows from start to stop do not exist."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"rows {start} to {stop} do not exist, {self.root} has {len(self)} rows.")
        return stop

    def rows_of(self, example: int) -> tuple[int, int]:
        """(start, stop) of the rows of one image; both equal where it has none."""
        low, high = np.searchsorted(self.spans.example, [example, example + 1])
        ends = np.concatenate([[0], self._span_ends])
        return int(ends[low]), int(ends[high])

    @cached_property
    def _span_ends(self) -> Int64[np.ndarray, " spans"]:
        return np.cumsum(self.spans.stop - self.spans.start)

    @cached_property
    def latents(self) -> "pl.DataFrame":
        """latents.parquet: a row of statistics per latent over these tokens."""
        return read_parquet(self._checked(LATENTS))

    def _checked(self, name: str) -> Path:
        """The path of a table; ValueError where it is missing or not the one that was written."""
        for fault in differing(self.root, {name: self.manifest.files[name]}):
            raise ValueError(f"{self.root}: {fault}; {REMEDY}.")
        return self.root / name

    def verify(self) -> list[str]:
        """Read every file and compare sha256; a line for each fault."""
        recorded = dict(self.manifest.files)
        for shard, entry in enumerate(self.manifest.shards):
            recorded |= {array_path(Path(), shard, name).name: entry["sha256"][name] for name in ARRAYS}
        return differing(self.root, recorded)


def joined(pieces: list[CodeRows], n_latents: int, dtype: str) -> CodeRows:
    """Rows of several shards concatenated, copied."""
    counts = [np.zeros(1, np.int64), *(np.diff(piece.offsets) for piece in pieces)]
    latents = [np.empty(0, np.int32), *(piece.latents for piece in pieces)]
    values = [np.empty(0, dtype), *(piece.values for piece in pieces)]
    return CodeRows(np.cumsum(np.concatenate(counts)), np.concatenate(latents), np.concatenate(values), n_latents)
