"""The directory of a sweep: a new one, or that of an earlier sweep of the same configurations."""

from pathlib import Path

from omegaconf import DictConfig

from saev.runs import ledger
from saev.runs.ledger import Sweep
from saev.runs.outputs import runs_root


def sweep_directory(hydra: DictConfig, fingerprint: str, rerun: bool) -> tuple[Path, Sweep | None]:
    """(directory, the plan that it holds, if any), from Hydra's own configuration.

    The directory named on the command line, else that of the newest sweep of the same configurations (not with `rerun`), else a
    new one. ValueError where the directory holds something else.
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
                f"hydra.sweep.dir={directory}: it holds a sweep over other configurations; choose another directory."
            )
        return directory, sweep
    if any(directory.glob("*/.hydra")):
        raise ValueError(
            f"hydra.sweep.dir={directory}: it holds runs, but no plan of a sweep; choose another directory."
        )
    named = any(override.lstrip("+").startswith("hydra.sweep.dir=") for override in hydra.overrides.hydra)
    earlier = None if named or rerun else ledger.find_sweep(runs_root(hydra.job.name), fingerprint)
    return (directory, None) if earlier is None else (earlier.absolute(), Sweep.load(earlier))
