"""The dictionaries that a user names, and the recorded tokens on which each of them is evaluated, encoded or shown.

paths or dictionaries in memory ──find_dictionaries──▶ SavedDictionary ──select_tokens──▶ Selection ──shared_passes──▶ groups
"""

import copy
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from saev import annotations
from saev.checkpoint import CONFIG, load, read_config
from saev.dictionary import Dictionary
from saev.files import plain_name
from saev.saved_folders import folders_in, names
from saev.settings import Examples
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection
from saev.shards.selection import select
from saev.shards.split import held_out_split
from saev.vits.activation_site import differences

log = logging.getLogger(__name__)

Recording = ActivationStore | str | os.PathLike
# Of runs whose config.json does not say what was held out: the defaults of conf/datamodule.
HELD_OUT = {"fraction": 0.1, "most_tokens": 500_000, "by_shard": False, "group": None, "split": None}


@dataclasses.dataclass(frozen=True)
class SavedDictionary:
    """A dictionary and its config.json: saved in `path` and not loaded yet, or `dictionary` in memory, with a minimal config."""

    name: str
    path: Path | None
    config: Mapping[str, Any] = dataclasses.field(repr=False)
    dictionary: Dictionary | None = None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What it was trained on: dataset, layer, token_roles, ...; empty where that is not known."""
        return self.config.get("provenance") or {}

    def names(self) -> dict[int, str]:
        """The names of annotated latents (saev/annotations.py); none of a dictionary in memory. ValueError for a malformed file."""
        return {} if self.path is None else annotations.names(self.path)

    def load(self, device: str) -> Dictionary:
        """The dictionary on `device`, in evaluation mode; of one in memory, a copy."""
        if self.path is not None:
            return load(self.path, device)
        assert self.dictionary is not None, "saved or in memory"
        copied = copy.deepcopy(self.dictionary)
        return copied.to(device).eval() if isinstance(copied, nn.Module) else copied  # type: ignore[return-value]


Dictionaries = (
    str | os.PathLike | SavedDictionary | Sequence[str | os.PathLike | SavedDictionary] | Mapping[str, Dictionary]
)


def find_dictionaries(dictionaries: Dictionaries) -> list[SavedDictionary]:
    """The dictionaries that a user names: folders of dictionaries, runs (saes/*) or sweeps (*/saes/*), or name -> dictionary.

    Saved ones are called by their folder, with the folder above where two names are equal. ValueError where a folder has none.
    """
    if isinstance(dictionaries, Mapping):
        return [
            SavedDictionary(name, None, {"d_model": one.d_model, "n_latents": one.n_latents}, one)
            for name, one in dictionaries.items()
        ]
    single = isinstance(dictionaries, str | os.PathLike | SavedDictionary)
    given: Sequence[Any] = [dictionaries] if single else list(dictionaries)
    if not given:
        raise ValueError(
            "no dictionary is named: give directories of runs, sweeps or dictionaries, e.g. outputs/train/<date>/<run>."
        )
    entries: dict[Any, SavedDictionary] = {}
    empty = []
    for item in given:
        if isinstance(item, SavedDictionary):
            entries.setdefault(item.path or item.name, item)
            continue
        if not (folders := folders_in(Path(item))):
            empty.append(item)
        for path in folders:
            entries.setdefault(path, SavedDictionary(path.name, path, read_config(path)))
    if empty and not entries:
        raise ValueError(
            f"{empty[0]} has no dictionaries: give a finished run, or a folder with {CONFIG} and dictionary.safetensors."
        )
    if empty:
        log.warning("without dictionaries, skipped: %s", ", ".join(map(str, empty)))
    unique = names([one.path or Path(one.name) for one in entries.values()])
    return [dataclasses.replace(one, name=name) for one, name in zip(entries.values(), unique, strict=True)]


def open_recording(
    one: SavedDictionary, recording: Recording | None = None, root: str | os.PathLike | None = None
) -> ActivationStore:
    """`recording`, or the one that a dictionary was trained on, under `root` (None: $SAEV_OUTPUTS/activations).

    ValueError where it is missing or of another width; warnings where it is of another backbone or hook.
    """
    trained = one.provenance.get("dataset")
    if recording is None and trained is None:
        raise ValueError(
            f"{one.name} does not say what it was trained on: give activations, dataset=/path/to/recording."
        )
    if recording is None:
        root = Path(os.environ.get("SAEV_OUTPUTS", "outputs"), "activations") if root is None else Path(root)
        recording = root / plain_name(trained, f"config.json of {one.name}")
        if not recording.is_dir() and one.provenance.get("stored") is False:
            raise ValueError(
                f"{one.name} was trained with datamodule.reader=live, its activations were not stored: record them with the same "
                f"images=, vit= and record= settings, saev record ... layer={one.provenance.get('layer')}, or give a recording, dataset=."
            )
        if not recording.is_dir():
            raise ValueError(
                f"{one.name} was trained on {trained}, which is not under {root}: give it, dataset=/path/to/{trained}."
            )
    store = recording if isinstance(recording, ActivationStore) else ActivationStore(recording)
    if store.d_model != one.config["d_model"]:
        raise ValueError(
            f"{one.name} has d_model={one.config['d_model']}, the activations of {store.name} have {store.d_model}: "
            "give activations of the backbone it was trained on (without dataset= they are looked up)."
        )
    vit, recorded = one.provenance.get("vit"), store.manifest.meaning.get("vit")
    if vit and recorded and (differ := differences(vit, recorded)):
        log.warning("%s was trained on another backbone than %s has (%s)", one.name, store.name, ", ".join(differ))
    hooks = one.provenance.get("hook"), store.manifest.meaning.get("hook")
    if all(hooks) and hooks[0] != hooks[1]:
        log.warning("%s was trained at hook %s, %s holds %s", one.name, hooks[0], store.name, hooks[1])
    return store


def layer_of(one: SavedDictionary, store: ActivationStore, layer: int | None = None) -> int:
    """`layer`, or the one a dictionary was trained on, as a block index; a warning where the two differ."""
    trained = one.provenance.get("layer")
    target = trained if layer is None else layer
    if target is None:
        raise ValueError(f"{one.name} does not say on which layer it was trained: give layer=.")
    index = store.resolve_layer(target)
    if trained is not None and index != trained:
        log.warning("%s was trained on layer %d, not on layer=%d", one.name, trained, index)
    return index


def select_tokens(
    one: SavedDictionary,
    recording: Recording | None = None,
    root: str | os.PathLike | None = None,
    layer: int | None = None,
    tokens: str | None = None,
    examples: Examples = "held_out",
) -> Selection:
    """The recorded tokens of the images that training held out, or of all; what is None is as the dictionary was trained.

    Of a recording of other images than it was trained on, all images are held out.
    """
    store = open_recording(one, recording, root)
    layer = layer_of(one, store, layer)
    trained_on: str = one.provenance.get("token_roles") or "patches"
    tokens = tokens or trained_on
    store.role_slice(tokens)  # ValueError for unknown roles
    ignore_labels = tuple(one.provenance.get("ignore_labels") or ())
    if examples == "held_out" and has_other_images(one, store):
        log.info("%s was not trained on %s: all of its images are held out", one.name, store.name)
        examples = "all"
    if examples == "all":
        return Selection(store, layer, np.flatnonzero(store.tokens_per_image(layer)), tokens, ignore_labels)
    if "held_out" not in one.provenance:
        log.warning("%s does not say which images were held out: taking those of the default settings", one.name)
    split = one.provenance.get("held_out") or HELD_OUT
    images = held_out_split(store, layer, trained_on, ignore_labels, **split)[1]
    return Selection(store, layer, images, tokens, ignore_labels)


def training_tokens(one: SavedDictionary, held_out: Selection) -> Selection | None:
    """The tokens of as many training images as `held_out` has, evenly spaced; None where training's split is not known."""
    store, split = held_out.store, one.provenance.get("held_out")
    if split is None or has_other_images(one, store):
        return None
    trained_on, ignore_labels = (
        one.provenance.get("token_roles") or "patches",
        tuple(one.provenance.get("ignore_labels") or ()),
    )
    train = held_out_split(store, held_out.layer, trained_on, ignore_labels, **split)[0]
    stored, part = store.tokens_per_image(held_out.layer), store.role_slice(trained_on)
    labels, most_tokens = store.labels_for(ignore_labels), one.provenance.get("subset_tokens")
    train = np.unique(select(stored, train, part, labels, ignore_labels, most_tokens).example)
    n = min(len(held_out.images), len(train))
    return dataclasses.replace(held_out, images=train[np.arange(n) * len(train) // n])


def has_other_images(one: SavedDictionary, store: ActivationStore) -> bool:
    """Whether a recording is known to have other images than those the dictionary was trained on."""
    trained, images = one.provenance.get("dataset_fingerprint"), one.provenance.get("images")
    if trained is None or trained == store.manifest.fingerprint:
        return False
    return images is None or images != store.manifest.meaning.get("images")  # else another recording of the same images


def shared_passes(selections: Mapping[str, Selection]) -> list[list[str]]:
    """Names in groups that share one pass: equal activations, layer, tokens and images."""
    groups: list[list[str]] = []
    for name, selection in selections.items():
        for group in groups:
            other = selections[group[0]]
            same = selection.store.manifest.fingerprint == other.store.manifest.fingerprint and all(
                getattr(selection, key) == getattr(other, key) for key in ("layer", "tokens", "ignore_labels")
            )
            if same and np.array_equal(selection.images, other.images):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups
