"""What the explorer reads: the directories given to it, and one dictionary with its codes, atoms, table of latents and photos.

Session --open_dictionary--> Opened; paths come from the directories alone, never from the browser.
"""

import dataclasses
import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float32
from scipy.sparse import csr_matrix

from saev.annotations import annotate, names
from saev.codes.encoding import DENSE, density, encode
from saev.codes.manifest import identity_of
from saev.codes.settings import EncodeSettings
from saev.codes.store import CodeStore
from saev.explore.latent import norms
from saev.explore.latents import latent_table
from saev.explore.results import result_files
from saev.explore.runs import dictionaries, with_pareto
from saev.images.source import ImageSource
from saev.saved import SavedDictionary, find_dictionaries, open_recording, select_tokens
from saev.visuals.codes import VIEWS, complete_codes
from saev.visuals.pictures import Album

log = logging.getLogger(__name__)
USUAL = ("kind", "sae", "objective", "decoder", "k", "d_sae", "layer", "dataset", "run")  # settings that come first
SMALL, LARGE = 224, 640  # pixels of photos
MOST = 64  # codes of a token that are kept of a dense dictionary


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """The directories to explore, the folders of codes and recordings, and the images that were recorded (None: no photos)."""

    directories: tuple[Path, ...]
    codes: Path
    activations: Path
    images: ImageSource | None = None
    dictionary: str | None = None  # the path of the one to open first
    device: str = "auto"

    def runs(self) -> pl.DataFrame:
        """The table of all dictionaries, with the column `pareto`."""
        return with_pareto(dictionaries(self.directories))

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """The tables of probes, traits and contrasts below the directories."""
        return result_files(self.directories)

    def first(self, runs: pl.DataFrame) -> str:
        """The path of the dictionary to open first: the one that was named, else a sparse Pareto-optimal one, with codes if any has."""
        if self.dictionary is not None:
            return self.dictionary
        sparse = runs.filter(pl.col("pareto"), pl.col("kind") == "sae")
        paths = (sparse if len(sparse) else runs)["path"].to_list()
        encoded = {Path(manifest.dictionary["path"]).absolute() for _, manifest in complete_codes(self.codes)}
        return next((path for path in paths if Path(path).absolute() in encoded), paths[0])


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A dictionary and its codes. Arrays are memory-mapped but for the atoms and the norms."""

    one: SavedDictionary
    codes: CodeStore
    album: Album  # of small photos
    large: Album
    files: dict[str, list[Path]]

    @cached_property
    def latents(self) -> pl.DataFrame:
        """See `latent_table`."""
        return latent_table(self.codes, self.one, self.files, names(self.folder))

    @cached_property
    def labels(self) -> dict[str, int]:
        """The text by which each encoded image is searched -> its number in the recording."""
        rows = self.codes.images.select("example", "path").iter_rows()
        return {f"{example}: {path}": example for example, path in rows}

    @property
    def folder(self) -> Path:
        """The folder of the dictionary."""
        assert self.one.path is not None, "found in a directory"
        return self.one.path

    def annotate(self, latent: int, name: str, note: str = "", confidence: float | None = None) -> None:
        """Name a latent in the dictionary's annotations.csv; ValueError where that cannot be done."""
        annotate(self.folder, latent, name, note=note, confidence=confidence)
        self.__dict__.pop("latents", None)  # made anew with the name

    @cached_property
    def pooled(self) -> csr_matrix:
        """The largest code of each image and latent."""
        return self.codes.pooled("max")

    @cached_property
    def norms(self) -> Float32[np.ndarray, " n_latents"]:
        """The norm of each latent's pooled codes."""
        return norms(self.pooled)

    @cached_property
    def unit_atoms(self) -> Float32[np.ndarray, "n_latents d_model"]:
        """The atoms, scaled to length 1."""
        atoms = self.one.load("cpu").atoms.detach().float().numpy()
        return atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)

    @cached_property
    def examples(self) -> np.ndarray:
        """The numbers of the encoded images in the recording, ascending."""
        return self.codes.images["example"].to_numpy()

    def warm(self) -> "Opened":
        """Read what every click needs, so that the first is as quick as the others."""
        _ = self.latents, self.norms, self.unit_atoms, self.examples, self.codes.spans
        for shard in range(len(self.codes.manifest.shards)):
            self.codes.array(shard, "indptr")  # compares its sha256
        return self


def named(path: str) -> SavedDictionary:
    """The dictionary in a folder."""
    (one,) = find_dictionaries(path)
    return one


def stored(path: str, root: Path) -> CodeStore | None:
    """The codes of a dictionary below `root`, of most images, with the views that the explorer reads; None where there are none."""
    sha256 = identity_of(Path(path))["sha256"]
    fitting = [
        (manifest.images["n"], folder)
        for folder, manifest in complete_codes(root)
        if manifest.dictionary["sha256"] == sha256 and {*manifest.views} >= {*VIEWS, "token"}
    ]
    return CodeStore(max(fitting)[1]) if fitting else None


def prepare(path: str, session: Session) -> CodeStore:
    """The codes of a dictionary, encoded where they are missing; of a dense one the MOST largest of each token."""
    if (codes := stored(path, session.codes)) is not None:
        return codes
    selection = select_tokens(named(path), root=session.activations, examples="all")
    most = None
    if (fraction := density(named(path).load("cpu"), selection, None)) > DENSE:
        most = MOST
        log.warning(
            "%s is dense (%.0f %% of its codes are not 0): the %d largest of each token are kept",
            path,
            100 * fraction,
            MOST,
        )
    settings = EncodeSettings(latent_topk=most, device=session.device)
    (codes,) = encode(path, selection.store, settings, out=session.codes, progress=True)
    return codes


def open_dictionary(path: str, session: Session) -> Opened | None:
    """The dictionary in a folder; None where its codes are missing. ValueError where its recording is missing."""
    codes = stored(path, session.codes)
    if codes is None:
        return None
    one = named(path)
    store = open_recording(one, session.activations / codes.manifest.dataset["name"])
    return Opened(one, codes, Album(session.images, store, SMALL), Album(session.images, store, LARGE), session.files)


OPENED: dict[tuple[int, str], Opened] = {}  # of this process: the last few, for all its browsers
KEPT = 3
LOCK = threading.Lock()


def opened_at(path: str, session: Session) -> Opened | None:
    """`open_dictionary`, warm; the last KEPT are not opened again."""
    with LOCK:
        key = id(session), path
        one = OPENED.pop(key, None) or open_dictionary(path, session)
        if one is not None:
            OPENED[key] = one.warm()
        while len(OPENED) > KEPT:
            OPENED.pop(next(iter(OPENED)))
        return one


def check_directories(directories: Sequence[Path]) -> None:
    """ValueError for a directory that is not there."""
    for directory in directories:
        if not directory.is_dir():
            raise ValueError(f"{directory} is not there: give folders of runs, sweeps or dictionaries, e.g. outputs.")


def settings_of(table: pl.DataFrame, without: Sequence[str] = ("name", "path", "l0", "nmse")) -> list[str]:
    """The columns of a table of dictionaries in which they differ, by which points can be coloured."""

    def differs(column: pl.Series) -> bool:
        return column.n_unique() > 1 and (
            column.dtype == pl.String or column.dtype.is_numeric() or column.dtype == pl.Boolean
        )

    columns = [name for name in (*USUAL, *table.columns) if name in table.columns and name not in without]
    return [name for name in dict.fromkeys(columns) if differs(table[name])]
