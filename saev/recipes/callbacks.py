"""The callbacks of a run that names none: those of conf/callbacks/default.yaml, built without Hydra."""

import re
from operator import attrgetter
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import lightning as L
import yaml

import callbacks
from saev.runs.ledger import CHECKPOINT
from saev.training.settings import TrainSettings

DECLARED = Path(callbacks.__file__).parents[1] / "conf" / "callbacks" / "default.yaml"


def default_callbacks(settings: TrainSettings, directory: Path) -> list[L.Callback]:
    """New instances, in the order of the file; `${key}` is a field of the settings."""
    scope = SimpleNamespace(**vars(settings), paths=SimpleNamespace(checkpoint=directory / CHECKPOINT))

    def value(declared: Any) -> Any:
        key = re.fullmatch(r"\$\{([\w.]+)\}", str(declared))
        return attrgetter(key[1])(scope) if key else declared

    nodes = [{key: value(v) for key, v in node.items()} for node in yaml.safe_load(DECLARED.read_text()).values()]
    return [resolve_name(node.pop("_target_"))(**node) for node in nodes]
