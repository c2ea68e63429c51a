"""report.html of a sweep: all jobs with their states, the joint table and frontier, and links to the jobs' own reports."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saev.visuals.page import write_page
from saev.visuals.results import Rows, relative_link, results, series_by_member

PAGE = "report.html"


def write_sweep_page(
    directory: Path,
    rows: Rows,
    jobs: Sequence[Mapping[str, Any]],
    *,
    settings: Sequence[str] = (),
    baselines: Rows = (),
) -> Path:
    """Write the page of a sweep in one step; its path.

    Args:
        rows: as of the sweep's results.parquet: of all finished jobs, with `job`, its folder.
        jobs: of each job `folder`, `state` and `note`.
        settings: shared settings in which the jobs differ; baselines: as of `results`.
    """
    path, several = directory / PAGE, len(jobs) > 1
    reports = {of["folder"]: directory / of["folder"] / PAGE for of in jobs}
    links = {folder: relative_link(report, path) for folder, report in reports.items() if report.is_file()}
    prefixes = {of["folder"]: f"{of['folder']}/" if several else "" for of in jobs}
    named = [{**row, "member": f"{prefixes[row['job']]}{row['member']}", "link": links.get(row["job"])} for row in rows]
    histories = {
        prefixes[folder]: directory / folder / "metrics.jsonl" for folder in dict.fromkeys(row["job"] for row in rows)
    }
    return write_page(
        path,
        "sweep.html.j2",
        title="Sweep of sparse autoencoders" if "sae" in rows[0] else "Sweep of baselines",
        facts=facts(rows, jobs),
        notice="",
        jobs=[{**of, "link": links.get(of["folder"])} for of in jobs],
        **results(named, histories, path, series_by_member(named, settings=settings), settings, baselines),
        files={"results": directory / "results.csv", "plan": directory / "sweep.json"},
    )


def facts(rows: Rows, jobs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the jobs have in common, and how many there are."""
    labels = {"dataset": "Recording", "layer": "Layer", "tokens": "Tokens"}
    values = {
        label: sorted({str(row[key]) for row in rows if row.get(key) is not None}) for key, label in labels.items()
    }
    states = [of["state"] for of in jobs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    pairs = [
        ("Jobs", counts),
        ("Dictionaries", f"{len(rows)}"),
        *((label, ", ".join(of)) for label, of in values.items()),
        ("Date", f"{datetime.datetime.now():%Y-%m-%d %H:%M}"),
    ]
    return [(label, value) for label, value in pairs if value]
