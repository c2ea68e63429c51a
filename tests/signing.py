"""Hashes of dictionaries that a test changes on purpose."""

import json
from pathlib import Path

from saev.checkpoint import CONFIG, WEIGHTS, config_digest
from saev.files import sha256


def sign(directory: Path) -> None:
    """Write the hashes of a dictionary's present files into its config.json."""
    about = json.loads((directory / CONFIG).read_text())
    about["sha256"] = {"config": config_digest(about), "weights": sha256(directory / WEIGHTS)}
    (directory / CONFIG).write_text(json.dumps(about))
