"""The end of a sweep, or a look at it meanwhile: the rows of all finished jobs in one table, and how the others stand."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape

from saev.runs import planning
from saev.runs.ledger import RESULTS, Standing, Sweep, standings
from saev.runs.slurm import NoAnswer
from saev.runs.tables import write_table
from saev.visuals.evaluation_table import evaluation_table
from saev.visuals.plots import frontier
from saev.visuals.style import save
from saev.visuals.table import results_table

log = logging.getLogger(__name__)
MARKS = {"finished": "green", "running": "cyan", "queued": "cyan", "failed": "red", "interrupted": "yellow"}
PLOT = "frontier.png"
# beside architecture and objective, what makes two SAEs points of different lines
SERIES = ("d_sae", "lr", "init", "b_dec", "decoder", "dead_tokens")


def conclude(directory: Path, sweep: Sweep, errors: Mapping[str, str], table: bool = True) -> dict[str, Standing]:
    """Write results.parquet, results.csv and frontier.png of the finished jobs, print their table; how each job stands.

    `errors` is what launchers said of jobs, by folder; it stands in for what a job could not write down itself. `table`:
    the rows are printed (those of a single job have just been).
    """
    console = Console()
    standing = looked_up(directory, sweep)
    for folder, said in errors.items():
        found = standing[folder]
        if not found.note:  # a job that has its numbers may have failed at its report
            state = found.state if found.state in ("finished", "running", "queued") else "failed"
            standing[folder] = dataclasses.replace(found, state=state, note=said)
    rows = collect(directory, sweep, standing)
    files = {"sweep": directory}
    if rows and table:
        named = [{**row, "member": f"{row['job']}/{row['member']}"} for row in rows] if len(sweep.jobs) > 1 else rows
        console.print((evaluation_table if sweep.verb == "fit" else results_table)(named))
    if rows:
        try:
            files |= written(directory, sweep, rows)
        except PermissionError as error:  # somebody else's sweep may be looked at
            log.warning("nothing is written: %s", error)
    show(console, sweep, standing)
    for name, path in files.items():
        console.print(f"{name + ':':<8} {path}", soft_wrap=True, highlight=False)
    if any(of.state in ("failed", "interrupted", "not started") for of in standing.values()):
        console.print(f"go on:   saev {sweep.verb} resume_sweep={directory}", soft_wrap=True, highlight=False)
    return standing


def looked_up(directory: Path, sweep: Sweep) -> dict[str, Standing]:
    """How the jobs stand; by their folders alone, and said, where Slurm cannot be asked."""
    try:
        return standings(directory, sweep.jobs)
    except NoAnswer as silence:
        log.warning("%s What follows is what the folders say.", silence)
        return standings(directory, sweep.jobs, ask=False)


def written(directory: Path, sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> dict[str, Path]:
    """Write the table and the plot; their paths."""
    write_table(directory, "results", rows)
    figure = frontier(rows, varying(rows, [*settings_of(sweep), *SERIES]))
    if figure is None:
        return {"results": directory / "results.csv"}
    save(figure, directory / PLOT)
    return {"results": directory / "results.csv", "plot": directory / PLOT}


def collect(directory: Path, sweep: Sweep, standing: Mapping[str, Standing]) -> list[dict[str, Any]]:
    """The rows of all finished jobs, each with its job's folder and what tells this job from the others."""
    rows = []
    settings = dict(zip(sweep.jobs, distinct_settings(sweep), strict=True))
    for folder in sweep.jobs:
        if standing[folder].state == "finished":
            for row in pl.read_parquet(directory / folder / RESULTS).iter_rows(named=True):
                own = {key: value for key, value in settings[folder].items() if key not in row}
                rows.append({"job": folder, **own, **row})
    return rows


def distinct_settings(sweep: Sweep) -> list[dict[str, Any]]:
    """For each job the shared settings in which it differs from others, by key."""
    jobs = list(sweep.jobs.values())
    common = set.intersection(*(set(job.shared) for job in jobs))
    own = [
        [o.lstrip("+").partition("=") for o in job.shared if o not in common and not o.startswith("~")] for job in jobs
    ]
    return [{key: cell(value) for key, equals, value in of if equals} for of in own]


def cell(value: str) -> Any:
    """An override's value as a table's cell holds it: a number, true or false, null, or text without its quotes.

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


def varying(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Those of the keys under which the rows differ."""
    return [key for key in keys if len({str(row.get(key)) for row in rows}) > 1]


def show(console: Console, sweep: Sweep, standing: Mapping[str, Standing]) -> None:
    """Print a line per job that has not finished, and how many have."""
    counts: dict[str, int] = {}
    for of in standing.values():
        counts[of.state] = counts.get(of.state, 0) + 1
    labels = dict(zip(sweep.jobs, planning.labels(list(sweep.jobs.values())), strict=True))
    for folder, of in standing.items():
        if of.state != "finished" or of.note:
            step = f", step {of.step}" if of.step is not None else ""
            what = f" ({labels[folder]})" if labels[folder] and labels[folder] not in folder else ""
            note = f": {escape(of.note)}" if of.note else ""
            console.print(
                f"[{MARKS.get(of.state, 'dim')}]{of.state}[/]  {escape(folder + what)}{step}{note}", soft_wrap=True
            )
    console.print("jobs:    " + ", ".join(f"{n} {state}" for state, n in counts.items()), highlight=False)
