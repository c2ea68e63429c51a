"""The folders of dictionaries below a folder, and the short names they are called by."""

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from saev.checkpoint import CONFIG

log = logging.getLogger(__name__)

RESULTS = "results.parquet"  # the mark of a finished run (saev.runs)


def folders_in(path: Path) -> list[Path]:
    """The folder of each dictionary in a folder: itself, those of a run, or those of every finished run below it.

    Runs without results and folders of runs without dictionaries are skipped and counted. ValueError where `path` is no folder.
    """
    path = Path(os.path.abspath(path)) if path.name in ("", "..") else path  # codes and rows are called by its name
    if (path / CONFIG).is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(
            f"{path} is not there: give a finished run, or a folder with {CONFIG} and dictionary.safetensors."
        )
    folders: list[Path] = []
    skipped: Counter[str] = Counter()
    for name, below, files in os.walk(path):
        run = Path(name)
        below[:] = sorted(below)
        if not ("saes" in below or ".hydra" in below or RESULTS in files):
            continue
        saved = sorted((file.parent for file in run.glob(f"saes/*/{CONFIG}")), key=by_number)
        if saved and (run == path or RESULTS in files):
            folders += saved
        elif RESULTS not in files:
            skipped["unfinished" if saved else "without dictionaries"] += 1
        below[:] = [] if "saes" in below else [one for one in below if one != ".hydra"]
    if folders and skipped:
        log.warning(
            "%s: skipped %s", path, ", ".join(f"{n} run{'s' * (n > 1)} {reason}" for reason, n in skipped.items())
        )
    return folders


def by_number(path: Path) -> list[tuple[bool, float, str]]:
    """A sort key that orders the numbers within names by value.

    >>> [path.name for path in sorted(map(Path, ("k=16", "k=8", "sparsity=4e-3")), key=by_number)]
    ['k=8', 'k=16', 'sparsity=4e-3']
    """
    pieces = re.split(r"(\d+)", str(path))
    return [(piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in pieces]


def names(paths: Sequence[Path]) -> list[str]:
    """A short unique name of each path: its folder's name, with the run's folder where that is not unique, or the whole path.

    >>> names([Path("a/saes/k=1"), Path("b/saes/k=1")]), names([Path("a/saes/k=1"), Path("a/saes/k=2")])
    (['a/k=1', 'b/k=1'], ['k=1', 'k=2'])
    """
    shortest = [path.name for path in paths]
    longer = ["/".join(part for part in path.parts[-3:] if part != "saes") for path in paths]
    for candidates in (shortest, longer):
        if len(set(candidates)) == len(paths):
            return candidates
    return [str(path) for path in paths]
