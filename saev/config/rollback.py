"""Restore a run's directory after a refused resume, and remove that of a run that was refused at once.

Hydra writes the new overrides into the directory before they are checked, and `ckpt_path=` reads overrides from there: a setting
that was refused once would be refused at every later resume.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from saev.files import write_atomically
from saev.runs.directory import RUN_ID
from saev.runs.ledger import CHECKPOINT, CONFIG, ERROR, LOCK, RESULTS

WRITTEN = (CONFIG, ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", RESULTS)


@contextlib.contextmanager
def restored_on_error(overrides: Sequence[str]) -> Iterator[None]:
    """Restore the files that describe the run in `hydra.run.dir`, unless the command succeeds or writes a checkpoint."""
    directory = None if further_process() else run_directory(overrides)
    checkpoint = directory / CHECKPOINT if directory else None
    if directory is None or not any((directory / name).is_file() for name in (CHECKPOINT, RESULTS)):
        yield
        return
    before, saved = contents(directory), modified(checkpoint)
    try:
        yield
    except BaseException as end:
        if modified(checkpoint) == saved and not (isinstance(end, SystemExit) and end.code in (0, None)):
            now = contents(directory)
            for name, data in before.items():
                # results that exist now are of a process that has finished meanwhile
                if now.get(name) != data and not (name == RESULTS and name in now):
                    write_atomically(directory / name, data)
        raise


def remove_refused(directory: Path) -> None:
    """Remove the new directory of a run that was refused before it did anything: Hydra's record and the log are all it holds.

    The message is on the terminal; an empty run would later be in the way of `saev evaluate outputs/train`. A job of a sweep
    keeps its directory, whose error.txt `saev status` reads.
    """
    written = {".hydra", ERROR, CONFIG, LOCK, RUN_ID}
    entries = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if ".hydra" in entries and all(name in written or name.endswith(".log") for name in entries):
        shutil.rmtree(directory)
        with contextlib.suppress(OSError):  # other runs of the day
            directory.parent.rmdir()


def further_process() -> bool:
    """Whether this is not the first of several processes: the first has already written these files."""
    return any(os.environ.get(rank, "0") != "0" for rank in ("LOCAL_RANK", "SLURM_PROCID"))


def run_directory(overrides: Sequence[str]) -> Path | None:
    """The directory of the run, if the overrides name it."""
    values = [override.partition("=")[2] for override in overrides if override.startswith("hydra.run.dir=")]
    return Path(values[-1].strip("'\"")) if values and "${" not in values[-1] else None


def contents(directory: Path) -> dict[str, bytes]:
    """The files that describe the run, by name."""
    return {name: path.read_bytes() for name in WRITTEN if (path := directory / name).is_file()}


def modified(path: Path | None) -> int | None:
    """When the file was last written, in nanoseconds; None without one."""
    return path.stat().st_mtime_ns if path and path.is_file() else None
