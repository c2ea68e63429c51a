"""The end of a run as files: results.parquet and results.csv, a row per SAE."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl


def write_results(directory: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the rows as parquet and csv (temporary name, then rename); the parquet file's path."""
    table = pl.DataFrame(list(rows), infer_schema_length=None)
    for name, write in (("results.csv", table.write_csv), ("results.parquet", table.write_parquet)):
        temporary = directory / f"{name}.tmp"
        write(temporary)
        temporary.replace(directory / name)  # parquet last: its presence says that the run is finished
    return directory / "results.parquet"


def git_commit() -> str | None:
    """The commit of the clone that runs, with "+" where files differ from it; None outside a clone."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
