"""The baselines that `saev fit` has fitted and measured on the tokens of a training run, to be compared with its SAEs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saev.checkpoint import CONFIG
from saev.files import read_parquet
from saev.runs.ledger import RESULTS
from saev.runs.outputs import runs_root

# what determines the held-out tokens: the recording, which of its tokens are read, and the split
SAME = ("dataset_fingerprint", "layer", "token_roles", "ignore_labels", "held_out")


def fitted_baselines(provenance: Mapping[str, Any], n_tokens: float, root: Path | None = None) -> list[dict[str, Any]]:
    """The rows of results.parquet of the finished fits below `root` (None: $SAEV_OUTPUTS/fit) that were measured on the same `n_tokens`
    held-out tokens, each with `run`, its directory. Of equal settings the newest.

    `provenance`: that of config.json of a dictionary trained on these tokens (SAME decides).
    """
    expected = json.loads(json.dumps({key: provenance.get(key) for key in SAME}))
    newest: dict[str, dict[str, Any]] = {}
    for run in sorted(finished_runs(root or runs_root("fit")), key=lambda run: (run / RESULTS).stat().st_mtime):
        for row in read_parquet(run / RESULTS).to_dicts():
            config = run / "saes" / str(row.get("member")) / CONFIG
            if row.get("n_tokens") != n_tokens or row.get("layer") != provenance.get("layer") or not config.is_file():
                continue
            about = json.loads(config.read_text())
            of = about.get("provenance") or {}
            if {key: of.get(key) for key in SAME} == expected:
                settings = {**about.get("hyperparameters", {}), "normalise": of.get("normalise")}
                newest[json.dumps(settings, sort_keys=True)] = {**row, "run": str(run)}
    return list(newest.values())


def finished_runs(root: Path) -> list[Path]:
    """The directories of the finished runs below a folder, those of sweeps among them."""
    runs = []
    for folder, below, files in os.walk(root):
        if "saes" in below and RESULTS in files:
            runs.append(Path(folder))
        below[:] = [] if "saes" in below else sorted(below)
    return runs
