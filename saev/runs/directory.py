"""What is in a run's directory already: nothing, an interrupted run to go on with, or a finished one to leave alone.

A job that a cluster has put back in the queue, and a sweep that is started again, come to the directory they had.
"""

import contextlib
import logging
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig, OmegaConf

from saev.files import write_atomically
from saev.locks import Busy
from saev.runs.ledger import CHECKPOINT, CONFIG, ERROR, RESULTS

log = logging.getLogger(__name__)

TOKEN = ".run_id"
FREE = ("ckpt_path", "member")  # keys that are no setting of the run


def results_of(directory: Path) -> dict[str, float] | None:
    """Held-out NMSE by member of the finished run in `directory`; None where none has finished."""
    if not (directory / RESULTS).is_file():
        return None
    table = pl.read_parquet(directory / RESULTS)
    return dict(zip(table["member"], table["nmse"], strict=True))


def take_up(cfg: DictConfig, directory: Path, write: bool = True, free: Collection[str] = ()) -> None:
    """Where the directory holds the run's checkpoint, make that where to go on from; `write` down what is run there.

    The directory's own checkpoint comes before one that `ckpt_path` names elsewhere: a requeued job has gone on from that.
    ValueError where the directory holds a run with other settings, but for those in `free`.
    """
    own = directory / CHECKPOINT
    if cfg.ckpt_path is None or Path(cfg.ckpt_path).absolute() != own.absolute():
        check_same(cfg, directory, free)
        if own.is_file():
            cfg.ckpt_path = str(own)
            log.info("going on from %s", own)
    if write:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / CONFIG, OmegaConf.to_yaml(cfg, resolve=False).encode())
        (directory / RESULTS).unlink(missing_ok=True)  # of a finished run that is gone on with: until it finishes again
        if not (directory / TOKEN).is_file():
            write_atomically(directory / TOKEN, secrets.token_hex(16).encode())


def token_of(directory: Path) -> str:
    """What tells this run from every other, here and elsewhere; it stays with the directory."""
    path = directory / TOKEN
    return path.read_text() if path.is_file() else ""  # a further process may be ahead of the first: it logs nothing


@contextlib.contextmanager
def noting_failure(directory: Path) -> Iterator[None]:
    """Leave in the run's directory what ended it, for whoever asks later how it stands."""
    (directory / ERROR).unlink(missing_ok=True)
    try:
        yield
    except Busy:  # another process is at work there
        raise
    except Exception as error:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / ERROR, f"{type(error).__name__}: {error}\n".encode())
        raise


def check_same(cfg: DictConfig, directory: Path, free: Collection[str] = ()) -> None:
    """ValueError where the directory holds a run, finished or to be gone on with, of another configuration.

    `free`: dotted keys that may differ.
    """
    used = any((directory / name).is_file() for name in (RESULTS, CHECKPOINT))
    if not used or not (directory / CONFIG).is_file():
        return
    theirs, ours = settings(OmegaConf.load(directory / CONFIG)), settings(cfg)
    if differing := sorted(key for key in {*theirs, *ours} - {*free} if theirs.get(key) != ours.get(key)):
        shown = ", ".join(f"{key}: {theirs.get(key)} there, {ours.get(key)} here" for key in differing)
        raise ValueError(
            f"hydra.run.dir={directory}: a run with other settings is there ({shown}); choose another directory, or go on "
            f"with that run, by ckpt_path={directory} without these settings."
        )


def settings(config: Any) -> dict[str, Any]:
    """A configuration's values by dotted key, as they were written."""
    found: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            found[prefix] = node

    walk(OmegaConf.to_container(config, resolve=False), "")
    return {key: value for key, value in found.items() if key not in FREE}
