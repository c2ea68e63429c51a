"""Where a sweep goes: a directory of its own, or that of the sweep of the same configurations that is there already."""

from pathlib import Path

from omegaconf import DictConfig

from saev.runs import ledger
from saev.runs.ledger import Sweep
from saev.runs.outputs import runs_root


def place(hydra: DictConfig, fingerprint: str, rerun: bool) -> tuple[Path, Sweep | None]:
    """(directory, the plan that stands there, if any), by Hydra's own configuration.

    A directory named on the command line is taken as it is; else the newest sweep of the same configurations, unless it is to
    be run anew. ValueError where the directory holds something else.
    """
    directory = Path(hydra.sweep.dir)
    if (directory / ledger.FILE).is_file():
        sweep = Sweep.load(directory)
        if rerun:
            raise ValueError(
                f"hydra.sweeper.rerun=true: {directory} holds the sweep already; choose another hydra.sweep.dir."
            )
        if sweep.fingerprint != fingerprint:
            raise ValueError(
                f"hydra.sweep.dir={directory}: a sweep over other configurations is there; choose another directory."
            )
        return directory, sweep
    if any(directory.glob("*/.hydra")):
        raise ValueError(
            f"hydra.sweep.dir={directory}: runs are there, but no plan of a sweep; choose another directory."
        )
    chosen = any(override.lstrip("+").startswith("hydra.sweep.dir=") for override in hydra.overrides.hydra)
    found = None if chosen or rerun else ledger.same(runs_root(hydra.job.name), fingerprint)
    return (directory, None) if found is None else (found.absolute(), Sweep.load(found))
