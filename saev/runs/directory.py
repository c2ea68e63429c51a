"""A run's directory: empty, resumable or finished. Requeued jobs and resumed sweeps return to theirs.

A configuration is a plain nested mapping of what was asked for; it is written to config.yaml and compared with what is there.
"""

import contextlib
import datetime
import logging
import secrets
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from saev.files import read_parquet, write_atomically
from saev.locks import Busy, exclusive
from saev.runs.ledger import CHECKPOINT, CONFIG, ERROR, LOCK, RESULTS
from saev.runs.outputs import runs_root

log = logging.getLogger(__name__)

RUN_ID = ".run_id"
NOT_COMPARED = ("ckpt_path", "member")  # keys that change no result


def results_of(directory: Path) -> dict[str, float] | None:
    """Held-out NMSE by member of the finished run in `directory`; None if no run has finished there."""
    if not (directory / RESULTS).is_file():
        return None
    table = read_parquet(directory / RESULTS)
    return dict(zip(table["member"], table["nmse"], strict=True))


@contextlib.contextmanager
def open_run(
    directory: Path,
    configuration: Mapping[str, Any],
    *,
    ckpt_path: str | Path | None = None,
    first_process: bool = True,
    may_differ: Collection[str] = (),
) -> Iterator[Path | None]:
    """Hold the lock of the run's directory and yield the checkpoint to resume from; None: start from the beginning.

    Writes config.yaml, removes earlier results, and records an exception in error.txt. A further process of the same run
    (not `first_process`) neither locks nor writes. Busy if another process holds the lock; ValueError as `check_same`.
    """
    if not first_process:
        yield checkpoint_of(directory, configuration, ckpt_path, may_differ)
        return
    busy = f"{directory}: another process is working in this run's directory; wait for it, or choose another directory."
    with recorded_failure(directory), exclusive(directory / LOCK, busy):
        checkpoint = checkpoint_of(directory, configuration, ckpt_path, may_differ)
        if checkpoint is not None:
            log.info("resuming from %s", checkpoint)
        write_atomically(directory / CONFIG, yaml.safe_dump(plain(configuration), sort_keys=False).encode())
        (directory / RESULTS).unlink(missing_ok=True)  # of a finished run that is resumed: until it finishes again
        if not (directory / RUN_ID).is_file():
            write_atomically(directory / RUN_ID, secrets.token_hex(16).encode())
        yield checkpoint


def checkpoint_of(
    directory: Path,
    configuration: Mapping[str, Any],
    ckpt_path: str | Path | None = None,
    may_differ: Collection[str] = (),
) -> Path | None:
    """The directory's checkpoint, else `ckpt_path`: a requeued job that was started from `ckpt_path` has gone beyond it.

    ValueError if the directory holds a run of another configuration, unless `ckpt_path` names that run's checkpoint.
    """
    path, own = (None if ckpt_path is None else Path(ckpt_path)), directory / CHECKPOINT
    if path is None or path.absolute() != own.absolute():
        check_same(directory, configuration, may_differ)
        path = own if own.is_file() else path
    if path is not None and (fault := checkpoint_fault(path)):
        raise ValueError(
            f"{path}: {fault}; restore it from a copy, or delete it: the run then starts from the beginning."
        )
    return path


def checkpoint_fault(path: Path) -> str:
    """What is wrong with a checkpoint file: cut off, empty or changed since it was written; "" for a sound one."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.save writes a zip file with a CRC-32 of each entry
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        return f"the checkpoint cannot be read ({error}, {path.stat().st_size if path.is_file() else 0} bytes)"
    return f"the checkpoint is damaged (entry {damaged})" if damaged else ""


def new_directory(verb: str) -> Path:
    """A directory of its own, below the outputs and the date, for a run that is started from Python."""
    now = datetime.datetime.now()
    return (runs_root(verb) / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S-%f}_python").absolute()


def run_id(directory: Path) -> str:
    """A random text that identifies the run and stays with its directory; empty before the first process has written it."""
    path = directory / RUN_ID
    return path.read_text() if path.is_file() else ""


@contextlib.contextmanager
def recorded_failure(directory: Path) -> Iterator[None]:
    """Write an exception raised within to the run's error.txt, for `saev status`; not Busy, which concerns another process."""
    (directory / ERROR).unlink(missing_ok=True)
    try:
        yield
    except Busy:
        raise
    except Exception as error:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / ERROR, f"{type(error).__name__}: {error}\n".encode())
        raise


def check_same(directory: Path, configuration: Mapping[str, Any], may_differ: Collection[str] = ()) -> None:
    """ValueError if the directory holds a resumable or finished run whose configuration differs beyond the dotted keys `may_differ`."""
    used = any((directory / name).is_file() for name in (RESULTS, CHECKPOINT))
    if not used or not (directory / CONFIG).is_file():
        return
    saved, new = by_dotted_key(yaml.safe_load((directory / CONFIG).read_text())), by_dotted_key(plain(configuration))
    ignored = {*NOT_COMPARED, *may_differ}
    if differing := sorted(key for key in {*saved, *new} - ignored if saved.get(key) != new.get(key)):
        shown = ", ".join(f"{key}: {saved.get(key)} there, {new.get(key)} here" for key in differing)
        raise ValueError(
            f"{directory} holds a run with other settings ({shown}): choose another directory, or resume that run by "
            f"ckpt_path={directory} without these settings."
        )


def plain(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as YAML reads it back: tuples become lists."""
    return yaml.safe_load(yaml.safe_dump(dict(configuration)))


def by_dotted_key(node: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted key.

    >>> by_dotted_key({"a": {"b": 1}, "c": [2], "d": {}})
    {'a.b': 1, 'c': [2], 'd': {}}
    """
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    parts = (by_dotted_key(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items())
    return {key: value for part in parts for key, value in part.items()}
