"""ckpt_path=last: go on in the directory of the newest unfinished run, with its own overrides."""

import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

LAST = "checkpoints/last.ckpt"
FINISHED = "results.parquet"


def with_run_dir(verb: str, arguments: Sequence[str]) -> list[str]:
    """The arguments, completed where they ask to resume: the interrupted run's directory becomes this run's.

    `ckpt_path=last` takes the newest unfinished run, `ckpt_path=<run directory>` that run. When nothing else is set,
    the run's own overrides are taken over from its .hydra folder.
    """
    chosen = [a.removeprefix("ckpt_path=") for a in arguments if a.startswith("ckpt_path=")]
    if verb != "train" or not chosen or any(a.startswith("hydra.run.dir=") for a in arguments):
        return list(arguments)
    run = newest_unfinished() if chosen[-1] == "last" else Path(chosen[-1])
    if not run.is_dir():
        return list(arguments)  # a checkpoint file: a new run that starts from it
    if not (run / LAST).is_file():
        raise ValueError(
            f"ckpt_path={run}: {LAST} is missing there; nothing to go on from. Start the run anew without ckpt_path."
        )
    others = [a for a in arguments if not a.startswith("ckpt_path=")]
    return [*(others or saved_overrides(run)), f"ckpt_path={run / LAST}", f"hydra.run.dir={run}"]


def newest_unfinished() -> Path:
    """The run directory whose last checkpoint is the newest among those without results."""
    root = Path(os.environ.get("SAEV_OUTPUTS", "outputs")) / "train"
    candidates = [path for path in root.glob(f"**/{LAST}") if not (path.parents[1] / FINISHED).is_file()]
    if not candidates:
        raise ValueError(
            f"ckpt_path=last: no interrupted run with a checkpoint under {root}; give its directory (ckpt_path=<run>), "
            "or start without ckpt_path."
        )
    return max(candidates, key=lambda path: path.stat().st_mtime).parents[1]


def saved_overrides(run: Path) -> list[str]:
    """The overrides that a run was started with."""
    path = run / ".hydra" / "overrides.yaml"
    overrides = [str(override) for override in OmegaConf.load(path)] if path.is_file() else []
    return [override for override in overrides if not override.startswith("ckpt_path=")]
