"""Reading codes: any rows, a latent's tokens, images pooled, a latent's map on an image; memory-mapped."""

import os
from bisect import bisect_left, bisect_right
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64, Shaped

from saev import annotations
from saev.codes import by_image, by_latent
from saev.codes.arrays import array_path
from saev.codes.manifest import ARRAYS, LATENTS, SPANS, CodesManifest, identity_of
from saev.codes.rows import CodeRows, joined
from saev.files import read_parquet, sha256
from saev.shards.merging import sidecar_path
from saev.shards.selection import Spans, positions
from saev.shards.verify import differing

if TYPE_CHECKING:
    import polars as pl
    from scipy.sparse import csr_matrix

REMEDY = "restore it, or delete the directory and encode again"


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
        self._views: dict[str, np.ndarray] = {}

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

    def names(self) -> dict[int, str]:
        """The names of annotated latents, from the folder of the dictionary where that is still there and the same."""
        folder = Path(self.manifest.dictionary["path"])
        if (
            not (folder / annotations.FILE).is_file()
            or identity_of(folder)["sha256"] != self.manifest.dictionary["sha256"]
        ):
            return {}
        return annotations.names(folder)

    def rows(self, start: int = 0, stop: int | None = None) -> CodeRows:
        """Rows start to stop (excluded; None: to the end). ValueError beyond the rows there are."""
        self._check_view("token")
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

    def latent(self, latent: int) -> tuple[Int64[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """(rows, ascending; codes, float32) of the tokens on which a latent fires.

        ValueError for a latent that there is not, and for codes without the view by latent.
        """
        if not 0 <= latent < self.n_latents:
            raise ValueError(f"latent {latent} does not exist: {self.root} has latents 0 to {self.n_latents - 1}.")
        start, stop = self.view(by_latent.OFFSETS, "latent")[latent : latent + 2]
        rows, values = (self.view(name, "latent")[start:stop] for name in (by_latent.ROWS, by_latent.VALUES))
        return rows.astype(np.int64), values.astype(np.float32)

    def pooled(self, kind: str = "max") -> "csr_matrix":
        """Codes pooled over the tokens of each image, [images, n_latents]; row i is that of `images[i]`. Memory-mapped.

        Args:
            kind: max, mean, top3 (mean of the three largest) or active (the number of tokens on which it fires).

        Latents that fire on no token of an image are left out (0).
        """
        from scipy.sparse import csr_matrix

        if kind not in by_image.POOLS:
            raise ValueError(f"pooled({kind!r}): choose {', '.join(by_image.POOLS)}.")
        names = (f"image_{kind}.npy", by_image.LATENTS, by_image.OFFSETS)
        arrays = tuple(self.view(name, "image") for name in names)
        return csr_matrix(arrays, shape=(len(arrays[2]) - 1, self.n_latents), copy=False)

    @cached_property
    def images(self) -> "pl.DataFrame":
        """images.parquet: the recording's row of each encoded image, its number there (`example`), and its rows here."""
        self._check_view("image")
        return read_parquet(self._checked(by_image.IMAGES))

    def image(self, example: int) -> CodeRows:
        """The codes of one image's tokens."""
        return self.rows(*self.rows_of(example))

    def map(self, latent: int, example: int) -> Float[np.ndarray, "grid_h grid_w"]:
        """One latent's codes on the patches of one image, NaN where a patch was not encoded.

        ValueError where the image has no grid of patches.
        """
        import polars as pl

        row = self.images.row(by_predicate=pl.col("example") == example, named=True)
        if not row.get("grid_h") or self.manifest.first_patch is None:
            raise ValueError(f"image {example} of {self.root} has no grid of patches: there is no map.")
        codes = np.full(row["grid_h"] * row["grid_w"], np.nan, np.float32)
        start, stop = self.rows_of(example)
        patch = self.tokens(start, stop)[1] - self.manifest.first_patch
        inside = (patch >= 0) & (patch < len(codes))
        codes[patch[inside]] = 0
        rows, values = self.latent(latent)
        low, high = np.searchsorted(rows, [start, stop])
        fires, values = rows[low:high] - start, values[low:high]
        codes[patch[fires][inside[fires]]] = values[inside[fires]]
        return codes.reshape(row["grid_h"], row["grid_w"])

    def view(self, name: str, view: str) -> Shaped[np.ndarray, " n"]:
        """An array of a view, memory-mapped; ValueError where the codes are without that view, or it is damaged."""
        self._check_view(view)
        if name not in self._views:
            try:  # a plain array over the mapped file: slices of np.memmap cost several times as much
                self._views[name] = np.asarray(np.load(self.root / name, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise ValueError(f"{self.root / name} is missing or damaged ({error}): {REMEDY}.") from error
        return self._views[name]

    def _check_view(self, view: str) -> None:
        if view not in self.manifest.views:
            raise ValueError(f"{self.root} was encoded without views=[{view}]: encode again with it.")

    def verify(self) -> list[str]:
        """Read every file and compare sha256; a line for each fault."""
        recorded = dict(self.manifest.files)
        for shard, entry in enumerate(self.manifest.shards if "token" in self.manifest.views else ()):
            recorded |= {array_path(Path(), shard, name).name: entry["sha256"][name] for name in ARRAYS}
        return differing(self.root, recorded)
