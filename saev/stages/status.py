"""saev status: the states of a sweep's jobs, or of a run, and their results.

saev status [DIRECTORY ...]      default: the newest sweep or run; exit code 1 if a job has failed
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from saev.config.resume import SWEEPING
from saev.progress import print_line, terminal
from saev.runs import ledger
from saev.runs.outputs import runs_root
from saev.runs.planning import Job
from saev.runs.sweep_summary import print_states, summarise
from saev.runs.tables import relative


def run(arguments: Sequence[str]) -> int:
    """Print the states in each directory; 1 if a job has failed, else 0."""
    parser = argparse.ArgumentParser("saev status", description="The states of a sweep's jobs, and their results.")
    parser.add_argument("directories", nargs="*", type=Path, help="sweeps or runs; default: the newest")
    directories = parser.parse_args(list(arguments)).directories or [newest()]
    return int(any([status(directory) for directory in directories]))


def newest() -> Path:
    """The newest sweep or single run of train and fit; ValueError where there is none."""
    marks = (ledger.FILE, ledger.CONFIG)
    files = [path for verb in SWEEPING for mark in marks for path in runs_root(verb).glob(f"*/*/{mark}")]
    if not files:
        raise ValueError(
            f"no run or sweep below {runs_root().parent}: name one, saev status <directory>, or set SAEV_OUTPUTS to the folder of "
            "your runs."
        )
    return max(files, key=lambda path: path.stat().st_mtime).parent


def status(directory: Path) -> bool:
    """Print the states of a sweep or a run; whether a job has failed."""
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such directory; name a sweep or a run.")
    if (directory / ledger.FILE).is_file():
        states = summarise(directory, ledger.Sweep.load(directory), {})
    elif not any((directory / mark).exists() for mark in (ledger.CONFIG, ledger.RESULTS, ".hydra")):
        raise ValueError(f"{directory} is neither a sweep nor a run: name one, e.g. outputs/train/<date>/<run>.")
    else:
        states = {directory.name: ledger.job_state(directory)}
        print_line(terminal(), f"run:     {relative(directory)}")
        print_states(terminal(), ledger.Sweep("", {directory.name: Job([], [])}), states)
    return any(of.state == "failed" for of in states.values())
