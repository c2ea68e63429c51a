"""ckpt_path=last: go on in the directory of the newest unfinished run, with its own overrides."""

import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from saev.shards.lock import is_locked

LAST = "checkpoints/last.ckpt"
FINISHED = "results.parquet"
LOCK = ".lock"  # held by the process that trains in a directory


def with_run_dir(verb: str, overrides: Sequence[str]) -> list[str]:
    """The overrides, completed where they ask to resume: the interrupted run's directory becomes this run's.

    `ckpt_path=last` takes the newest unfinished run that nobody is training, `ckpt_path=<run directory>` that run. Its own
    overrides are taken over from its .hydra folder; those given now come after them. `ckpt_path=<file>` starts a new run
    from that checkpoint.
    """
    chosen = [
        override.removeprefix("ckpt_path=").strip("'\"") for override in overrides if override.startswith("ckpt_path=")
    ]
    if verb != "train" or not chosen or chosen[-1] in ("", "null"):
        return list(overrides)
    others = [override for override in overrides if not override.startswith("ckpt_path=")]
    path = newest_unfinished() if chosen[-1] == "last" else Path(chosen[-1])
    if path.is_file():
        return [*others, quoted("ckpt_path", path)]
    if not (path / LAST).is_file():
        state = f"{LAST} is missing there" if path.is_dir() else "there is no such file or directory"
        raise ValueError(
            f"ckpt_path={path}: {state}; give a run's directory or a checkpoint, or start without ckpt_path."
        )
    if is_locked(path / LOCK):
        raise ValueError(f"ckpt_path={path}: another process is training there; wait for it, or end it first.")
    return [*saved_overrides(path), *others, quoted("ckpt_path", path / LAST), quoted("hydra.run.dir", path)]


def quoted(key: str, path: Path) -> str:
    """An override whose value Hydra takes as it is, whatever characters it holds."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'


def newest_unfinished() -> Path:
    """The run directory whose last checkpoint is the newest among those without results that nobody is training."""
    root = Path(os.environ.get("SAEV_OUTPUTS", "outputs")) / "train"
    runs = [path.parents[1] for path in root.glob(f"**/{LAST}")]
    candidates = [run for run in runs if not (run / FINISHED).is_file() and not is_locked(run / LOCK)]
    if not candidates:
        raise ValueError(
            f"ckpt_path=last: no interrupted run with a checkpoint under {root}; give its directory (ckpt_path=<run>), "
            "or start without ckpt_path."
        )
    return max(candidates, key=lambda run: (run / LAST).stat().st_mtime)


def saved_overrides(run: Path) -> list[str]:
    """The overrides that a run was started with."""
    path = run / ".hydra" / "overrides.yaml"
    overrides = [str(override) for override in OmegaConf.load(path)] if path.is_file() else []
    return [override for override in overrides if not override.startswith("ckpt_path=")]
