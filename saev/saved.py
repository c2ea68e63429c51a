"""The dictionaries that a command names: single ones, a run's, a sweep's; and the activations they were trained on."""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saev.checkpoint import CONFIG, load, read_config
from saev.dictionary import Dictionary
from saev.shards import ActivationStore
from saev.vits.place import differences

log = logging.getLogger(__name__)

# Of runs whose config.json does not say what was held out: the defaults of conf/datamodule.
HELD_OUT = {"fraction": 0.1, "tokens": 500_000, "by_shard": False}


@dataclasses.dataclass(frozen=True)
class SavedDictionary:
    """A saved dictionary, not loaded yet."""

    name: str
    path: Path
    config: Mapping[str, Any]

    @property
    def about(self) -> Mapping[str, Any]:
        """What it was trained on."""
        return self.config.get("provenance") or {}

    def load(self, device: str) -> Dictionary:
        """The dictionary itself, in evaluation mode."""
        return load(self.path, device)


def find_dictionaries(directories: Sequence[str]) -> list[SavedDictionary]:
    """The dictionaries in these directories: each a dictionary, a run (saes/*) or a sweep (*/saes/*).

    Names are the folders' own, with those above them where two are the same. ValueError where a directory has none.
    """
    if not directories:
        raise ValueError(
            "no dictionary is named: give directories of runs, sweeps or dictionaries, e.g. outputs/train/<date>/<run>."
        )
    paths: list[Path] = []
    for given in directories:
        path = Path(given)
        path = Path(os.path.abspath(path)) if path.name in ("", "..") else path  # codes and rows are called by its name
        if (path / CONFIG).is_file():
            inside = [path]
        else:
            found = (file.parent for at in ("saes/*", "*/saes/*") for file in path.glob(f"{at}/{CONFIG}"))
            inside = sorted(found, key=by_number)
        if not inside:
            state = "has no dictionaries" if path.is_dir() else "is not there"
            raise ValueError(
                f"{path} {state}: give a finished run, or a folder with {CONFIG} and dictionary.safetensors."
            )
        paths += [one for one in inside if one not in paths]
    return [SavedDictionary(name, path, read_config(path)) for name, path in zip(names(paths), paths, strict=True)]


def by_number(path: Path) -> list[tuple[bool, float, str]]:
    """A key by which paths sort as people count.

    >>> [path.name for path in sorted(map(Path, ("k=16", "k=8", "sparsity=4e-3")), key=by_number)]
    ['k=8', 'k=16', 'sparsity=4e-3']
    """
    pieces = re.split(r"(\d+)", str(path))
    return [(piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in pieces]


def names(paths: Sequence[Path]) -> list[str]:
    """A short name of each: its folder's; with the run's folder, or whole, where that is not unique.

    >>> names([Path("a/saes/k=1"), Path("b/saes/k=1")]), names([Path("a/saes/k=1"), Path("a/saes/k=2")])
    (['a/k=1', 'b/k=1'], ['k=1', 'k=2'])
    """
    shortest = [path.name for path in paths]
    longer = ["/".join(part for part in path.parts[-3:] if part != "saes") for path in paths]
    for candidates in (shortest, longer):
        if len(set(candidates)) == len(paths):
            return candidates
    return [str(path) for path in paths]


def open_store(found: SavedDictionary, dataset: str | None, root: Path) -> ActivationStore:
    """The activations to evaluate on: `dataset`, or those it was trained on, looked for under `root`.

    ValueError where they are not there or of another width; warnings where they are of another backbone or hook.
    """
    trained = found.about.get("dataset")
    place = dataset or (str(root / trained) if trained else None)
    if place is None:
        raise ValueError(
            f"{found.name} does not say what it was trained on: give activations, dataset=/path/to/recording."
        )
    if dataset is None and not Path(place).is_dir():
        raise ValueError(
            f"{found.name} was trained on {trained}, which is not under {root}: give it, dataset=/path/to/{trained}."
        )
    store = ActivationStore(place)
    if store.d_model != found.config["d_model"]:
        raise ValueError(
            f"{found.name} has d_model={found.config['d_model']}, the activations of {store.name} have {store.d_model}: "
            "evaluate on activations of its own backbone (leave dataset out)."
        )
    ours, theirs = found.about.get("vit"), store.manifest.meaning.get("vit")
    if ours and theirs and (differ := differences(ours, theirs)):
        log.warning("%s was trained on another backbone than %s has (%s)", found.name, store.name, ", ".join(differ))
    hooks = found.about.get("hook"), store.manifest.meaning.get("hook")
    if all(hooks) and hooks[0] != hooks[1]:
        log.warning("%s was trained at hook %s, %s holds %s", found.name, hooks[0], store.name, hooks[1])
    return store


def layer_of(found: SavedDictionary, store: ActivationStore, asked: int | None) -> int:
    """The layer to evaluate on: the one asked for (with a warning where it is another), or its own."""
    own = found.about.get("layer")
    wanted = own if asked is None else asked
    if wanted is None:
        raise ValueError(f"{found.name} does not say on which layer it was trained: give layer=.")
    layer = store.resolve_layer(wanted)
    if own is not None and layer != own:
        log.warning("%s was trained on layer %d, not on layer=%d", found.name, own, layer)
    return layer
