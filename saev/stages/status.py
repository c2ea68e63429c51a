"""saev status: how the jobs of a sweep, or a run, stand; and the results that there are.

saev status [DIRECTORY ...]      the newest sweep where none is named; exit code 1 where a job has failed
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from saev.config.resume import SWEEPING
from saev.runs import ledger
from saev.runs.outputs import runs_root
from saev.runs.planning import Job
from saev.runs.sweep_summary import conclude, show


def run(arguments: Sequence[str]) -> int:
    """Print how each directory stands; 1 where a job has failed, else 0."""
    parser = argparse.ArgumentParser("saev status", description="How a sweep's jobs stand, and the results there are.")
    parser.add_argument("directories", nargs="*", type=Path, help="sweeps or runs; none: the newest sweep")
    directories = parser.parse_args(list(arguments)).directories or [newest()]
    return int(any([status(directory) for directory in directories]))


def newest() -> Path:
    """The newest sweep; ValueError where there is none."""
    found = [path for verb in SWEEPING if (path := next(ledger.sweeps(runs_root(verb)), None)) is not None]
    if not found:
        root = runs_root().parent
        raise ValueError(
            f"no sweep below {root}, as nothing was started with -m there: name a run, saev status <run>, or set "
            "SAEV_OUTPUTS to where your sweeps are."
        )
    return max(found, key=lambda path: (path / ledger.FILE).stat().st_mtime)


def status(directory: Path) -> bool:
    """Print how a sweep or a run stands; whether a job has failed."""
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such directory; name a sweep or a run.")
    if (directory / ledger.FILE).is_file():
        found = conclude(directory, ledger.Sweep.load(directory), {})
    else:
        job = {directory.name: Job([], [])}
        found = {directory.name: ledger.standing(directory)}
        show(Console(), ledger.Sweep("", job), found)
    return any(of.state == "failed" for of in found.values())
