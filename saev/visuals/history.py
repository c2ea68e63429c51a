"""The training curves of a run, read from metrics.jsonl."""

import json
from collections.abc import Sequence
from pathlib import Path

Curves = dict[str, dict[str, list[float]]]


def read_history(path: str | Path, metrics: Sequence[str] = ("z_mse", "l0"), split: str = "train") -> Curves:
    """Per member, equally long lists `tokens` and each of `metrics`, in the order of training; NaN where a line has none.

    A last line truncated by a killed run is left out. No file: no curves.
    """
    curves: Curves = {}
    path = Path(path)
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if line.get("split") == split:
            curve = curves.setdefault(line["member"], {name: [] for name in ("tokens", *metrics)})
            for name in curve:
                curve[name].append(float(line.get(name, "nan")))
    return curves
