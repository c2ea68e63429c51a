"""What the explorer reads: the directories given to it, and one dictionary with its codes, atoms, table of latents and photos.

Session --open_dictionary--> Opened; paths come from the directories alone, never from the browser.
"""

import dataclasses
import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import polars as pl

from saev.codes.encoding import DENSE, density, encode
from saev.codes.manifest import identity_of
from saev.codes.settings import EncodeSettings
from saev.codes.store import CodeStore
from saev.explore.opened import Opened
from saev.explore.results import result_files
from saev.explore.runs import dictionaries, with_pareto
from saev.explore.upload import Reader
from saev.images.source import ImageSource
from saev.saved import SavedDictionary, find_dictionaries, open_recording, select_tokens
from saev.visuals.codes import VIEWS, complete_codes
from saev.visuals.pictures import Album

log = logging.getLogger(__name__)
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
    reader: Reader | None = None  # the backbone, for photos that were not recorded

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
    return Opened(
        one, codes, Album(session.images, store, SMALL), Album(session.images, store, LARGE), session.files, store
    )


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
