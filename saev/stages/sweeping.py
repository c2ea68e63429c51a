"""The end of a sweep, or a look at it meanwhile: the rows of all finished jobs in one table, and how the others stand."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape

from saev.stages.tables import write_table
from saev.sweep import planning
from saev.sweep.ledger import RESULTS, Standing, Sweep, standings
from saev.visuals.plots import frontier
from saev.visuals.style import save
from saev.visuals.table import results_table

MARKS = {"finished": "green", "running": "cyan", "queued": "cyan", "failed": "red", "interrupted": "yellow"}
PLOT = "frontier.png"
# beside architecture and objective, what makes two SAEs points of different lines
SERIES = ("d_sae", "lr", "init", "b_dec", "decoder", "dead_tokens")


def conclude(directory: Path, sweep: Sweep, errors: Mapping[str, str], table: bool = True) -> None:
    """Write results.parquet, results.csv and frontier.png of the finished jobs, print their table and how the rest stands.

    `errors` is what launchers said of jobs, by folder; it stands in for what a job could not write down itself. `table`:
    the rows are printed (those of a single job have just been).
    """
    console = Console()
    standing = standings(directory, sweep.jobs)
    for folder, said in errors.items():
        if standing[folder].state != "finished" and not standing[folder].note:
            standing[folder] = dataclasses.replace(standing[folder], state="failed", note=said)
    rows = collect(directory, sweep, standing)
    if rows:
        write_table(directory, "results", rows)
        named = [{**row, "member": f"{row['job']}/{row['member']}"} for row in rows] if len(sweep.jobs) > 1 else rows
        if table:
            console.print(results_table(named))
        figure = frontier(rows, varying(rows, [*settings_of(sweep), *SERIES]))
        if figure is not None:
            save(figure, directory / PLOT)
    show(console, sweep, standing)
    console.print(f"sweep:   {directory}", soft_wrap=True, highlight=False)
    if rows:
        console.print(f"results: {directory / 'results.csv'}", soft_wrap=True, highlight=False)
    if rows and figure is not None:
        console.print(f"plot:    {directory / PLOT}", soft_wrap=True, highlight=False)
    if any(of.state in ("failed", "interrupted", "not started") for of in standing.values()):
        console.print(f"go on:   saev train resume_sweep={directory}", soft_wrap=True, highlight=False)


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
    own = [[o.lstrip("+").partition("=") for o in job.shared if o not in common] for job in jobs]
    return [{key: plain(value) for key, _, value in of if not key.startswith("~")} for of in own]


def plain(text: str) -> Any:
    """The value that an override gives, as a table's cell holds it."""
    value = OmegaConf.from_dotlist([f"value={text}"]).value
    return value if isinstance(value, str | int | float | bool | None) else str(value)


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
        if of.state != "finished":
            step = f", step {of.step}" if of.step is not None else ""
            what = f" ({labels[folder]})" if labels[folder] and labels[folder] not in folder else ""
            note = f": {escape(of.note)}" if of.note else ""
            console.print(
                f"[{MARKS.get(of.state, 'dim')}]{of.state}[/]  {escape(folder + what)}{step}{note}", soft_wrap=True
            )
    console.print("jobs:    " + ", ".join(f"{n} {state}" for state, n in counts.items()), highlight=False)
