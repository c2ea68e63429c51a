"""saev status: the states of a sweep's jobs, or of a run, and their results.

saev status [DIRECTORY ...]      default: the newest sweep; exit code 1 if a job has failed
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from saev.config.resume import SWEEPING
from saev.progress import terminal
from saev.runs import ledger
from saev.runs.outputs import runs_root
from saev.runs.planning import Job
from saev.runs.sweep_summary import print_states, summarise


def run(arguments: Sequence[str]) -> int:
    """Print the states in each directory; 1 if a job has failed, else 0."""
    parser = argparse.ArgumentParser("saev status", description="The states of a sweep's jobs, and their results.")
    parser.add_argument("directories", nargs="*", type=Path, help="sweeps or runs; default: the newest sweep")
    directories = parser.parse_args(list(arguments)).directories or [newest()]
    return int(any([status(directory) for directory in directories]))


def newest() -> Path:
    """The newest sweep; ValueError where there is none."""
    sweeps = [path for verb in SWEEPING if (path := next(ledger.sweeps(runs_root(verb)), None)) is not None]
    if not sweeps:
        raise ValueError(
            f"no sweep (-m) below {runs_root().parent}: name a run, saev status <run>, or set SAEV_OUTPUTS to the folder of your "
            "sweeps."
        )
    return max(sweeps, key=lambda path: (path / ledger.FILE).stat().st_mtime)


def status(directory: Path) -> bool:
    """Print the states of a sweep or a run; whether a job has failed."""
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such directory; name a sweep or a run.")
    if (directory / ledger.FILE).is_file():
        states = summarise(directory, ledger.Sweep.load(directory), {})
    else:
        states = {directory.name: ledger.job_state(directory)}
        print_states(terminal(), ledger.Sweep("", {directory.name: Job([], [])}), states)
    return any(of.state == "failed" for of in states.values())
