"""The training curves of a run, read from metrics.jsonl."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Curves = dict[str, dict[str, list[float]]]


def read_history(path: str | Path, metrics: Sequence[str] = ("z_mse", "l0"), split: str = "train") -> Curves:
    """Per member, equally long lists `tokens` and each of `metrics`, in the order of training; NaN where a line has none.

    A last line truncated by a killed run is left out. No file: no curves.
    """
    curves: Curves = {}
    for line in lines_of(path):
        if line.get("split") == split:
            curve = curves.setdefault(line["member"], {name: [] for name in ("tokens", *metrics)})
            for name in curve:
                curve[name].append(float(line.get(name, "nan")))
    return curves


def last_validation(path: str | Path) -> list[dict[str, Any]]:
    """The lines of the last validation, one per member: member, step, tokens and the metrics; [] before the first one."""
    lines = [line for line in lines_of(path) if line.get("split") == "val"]
    return [line for line in lines if line["step"] == lines[-1]["step"]]


def lines_of(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl that are complete."""
    path = Path(path)
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(text)
        except json.JSONDecodeError:
            continue
