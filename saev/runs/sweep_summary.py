"""Collect a sweep's results and report the states of its jobs, at its end or meanwhile."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from saev.checkpoint import CONFIG as DICTIONARY
from saev.files import read_parquet
from saev.progress import print_line, terminal
from saev.runs import planning
from saev.runs.baselines import fitted_baselines
from saev.runs.ledger import CONFIG, FILE, RESULTS, JobState, Sweep, job_states
from saev.runs.slurm import QueueUnavailable
from saev.runs.tables import write_table
from saev.visuals.frontier import frontier, log_not_drawn
from saev.visuals.style import save
from saev.visuals.sweep_page import write_sweep_page
from saev.visuals.tables import evaluation_table, results_table

log = logging.getLogger(__name__)
MARKS = {"finished": "green", "running": "cyan", "queued": "cyan", "failed": "red", "interrupted": "yellow"}
PLOT = "frontier.png"


def summarise(directory: Path, sweep: Sweep, errors: Mapping[str, str], table: bool = True) -> dict[str, JobState]:
    """Write results.parquet, results.csv, frontier.png and report.html of the finished jobs and print them; the state of each job.

    `errors` are the launchers' messages by folder, for jobs that left no error.txt. `table`: print the rows (a single job
    has just printed its own).
    """
    console = terminal()
    states = known_states(directory, sweep)
    for folder, message in errors.items():
        of = states[folder]
        if not of.note:  # a job with results may have failed at its report
            state = of.state if of.state in ("finished", "running", "queued") else "failed"
            states[folder] = dataclasses.replace(of, state=state, note=message)
    rows = collect(directory, sweep, states)
    files = {"sweep": directory}
    if rows and table:
        named = [{**row, "member": f"{row['job']}/{row['member']}"} for row in rows] if len(sweep.jobs) > 1 else rows
        console.print((evaluation_table if sweep.verb == "fit" else results_table)(named))
    if rows:
        try:
            files |= write_summary(directory, sweep, rows, states)
        except PermissionError as error:  # the sweep of another user
            log.warning("nothing is written: %s", error)
    print_states(console, sweep, states)
    for name, path in files.items():
        print_line(console, f"{name + ':':<8} {path}")
    if any(of.state in ("failed", "interrupted", "not started") for of in states.values()):
        print_line(console, f"resume:  saev {sweep.verb} resume_sweep={directory}")
    return states


def known_states(directory: Path, sweep: Sweep) -> dict[str, JobState]:
    """The states of the jobs; with a warning and from their folders alone where squeue fails."""
    try:
        return job_states(directory, sweep.jobs)
    except QueueUnavailable as error:
        log.warning("%s The states below are those of the folders alone.", error)
        return job_states(directory, sweep.jobs, ask_slurm=False)


def write_summary(
    directory: Path, sweep: Sweep, rows: Sequence[Mapping[str, Any]], states: Mapping[str, JobState]
) -> dict[str, Path]:
    """Write the table, the plot and the page; their paths. An error of the page is logged."""
    write_table(directory, "results", rows)
    files, settings = {"results": directory / "results.csv"}, settings_of(sweep)
    if (figure := frontier(rows, settings)) is not None:
        save(figure, directory / PLOT)
        files["plot"] = directory / PLOT
    log_not_drawn(rows)
    if not any(has_page(directory / folder) for folder in dict.fromkeys(row["job"] for row in rows)):
        return files
    jobs = [{"folder": folder, "state": of.state, "note": of.note} for folder, of in states.items()]
    try:
        baselines = baselines_of(directory, rows)
        files["report"] = write_sweep_page(directory, rows, jobs, settings=settings, baselines=baselines)
    except PermissionError:
        raise
    except Exception:
        log.exception("report.html of the sweep could not be written; its results are complete")
    return files


def has_page(run: Path) -> bool:
    """Whether the run was to write a page: `report` of its configuration, which fits do not have."""
    config = run / CONFIG
    return not config.is_file() or (yaml.safe_load(config.read_text()) or {}).get("report", True)


def baselines_of(directory: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The fitted baselines that were measured on the same tokens as all of the SAEs; none where the SAEs differ in these."""
    first = directory / rows[0]["job"] / "saes" / rows[0]["member"]
    same = len({tuple(row.get(key) for key in ("dataset", "layer", "tokens", "n_tokens")) for row in rows}) == 1
    if not same or "sae" not in rows[0] or not (first / DICTIONARY).is_file():
        return []
    return fitted_baselines(json.loads((first / DICTIONARY).read_text())["provenance"], rows[0]["n_tokens"])


def summarise_if_last(run: Path) -> None:
    """Write the results of the sweep to which a finished run belongs, if all of its jobs are finished: of those that Slurm runs
    without a waiting process, the last one does this."""
    if (run.parent / FILE).is_file():
        sweep = Sweep.load(run.parent)
        states = job_states(run.parent, sweep.jobs, ask_slurm=False)
        if all(of.state == "finished" for of in states.values()):
            write_summary(run.parent, sweep, collect(run.parent, sweep, states), states)


def collect(directory: Path, sweep: Sweep, states: Mapping[str, JobState]) -> list[dict[str, Any]]:
    """The rows of all finished jobs, with the job's folder and the settings in which jobs differ."""
    rows = []
    settings = dict(zip(sweep.jobs, distinct_settings(sweep), strict=True))
    for folder in sweep.jobs:
        if states[folder].state == "finished":
            for row in read_parquet(directory / folder / RESULTS).iter_rows(named=True):
                own = {key: value for key, value in settings[folder].items() if key not in row}
                rows.append({"job": folder, **own, **row})
    return rows


def distinct_settings(sweep: Sweep) -> list[dict[str, Any]]:
    """For each job, the shared settings in which it differs from the others, by key."""
    jobs = list(sweep.jobs.values())
    common = set.intersection(*(set(job.shared) for job in jobs))
    own = [
        [o.lstrip("+").partition("=") for o in job.shared if o not in common and not o.startswith("~")] for job in jobs
    ]
    return [{key: cell(value) for key, equals, value in of if equals} for of in own]


def cell(value: str) -> Any:
    """An override's value for a table: a number, true or false, None, or text without its quotes.

    >>> cell("1e-3"), cell("13"), cell("true"), cell("null"), cell("'a b'"), cell("[1,2]")
    (0.001, 13, True, None, 'a b', '[1,2]')
    """
    words = {"true": True, "false": False, "null": None}
    if value.lower() in words:
        return words[value.lower()]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(value)
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def settings_of(sweep: Sweep) -> list[str]:
    """The shared settings in which jobs differ."""
    return list(dict.fromkeys(key for settings in distinct_settings(sweep) for key in settings))


def print_states(console: Console, sweep: Sweep, states: Mapping[str, JobState]) -> None:
    """Print a line per unfinished job, and the number of jobs in each state."""
    counts: dict[str, int] = {}
    for of in states.values():
        counts[of.state] = counts.get(of.state, 0) + 1
    labels = dict(zip(sweep.jobs, planning.labels(list(sweep.jobs.values())), strict=True))
    for folder, of in states.items():
        if of.state != "finished" or of.note:
            step = f", step {of.step}" if of.step is not None else ""
            what = f" ({labels[folder]})" if labels[folder] and labels[folder] not in folder else ""
            note = f": {of.note}" if of.note else ""
            state = (of.state, MARKS.get(of.state, "dim"))
            console.print(Text.assemble(state, f"  {folder}{what}{step}{note}"), soft_wrap=True)
    console.print("jobs:    " + ", ".join(f"{n} {state}" for state, n in counts.items()))
