"""The codes that a page of latents reads instead of encoding activations."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from saev.codes.manifest import CodesManifest, holds_codes, identify
from saev.codes.store import CodeStore
from saev.saved import Recording, SavedDictionary
from saev.shards import ActivationStore
from saev.shards.manifest import FILE
from saev.shards.selected_tokens import Selection

log = logging.getLogger(__name__)
VIEWS = {"latent", "image"}  # that the page reads


def codes_of(
    saved: Mapping[str, SavedDictionary],
    selections: Mapping[str, Selection],
    examples: Mapping[str, Int[np.ndarray, " images"]],
    root: Path,
) -> dict[str, CodeStore]:
    """Name -> codes of the dictionary below `root`, without a bound on their number, on the selected tokens of these images.

    Dictionaries without such codes, or in memory, are left out.
    """
    complete = [*complete_codes(root)]
    read = {}
    for name, selection in selections.items():
        if saved[name].path is None or selection.ignore_labels:  # the page shows the tokens of ignored labels too
            continue
        tokens = (selection.store.manifest.fingerprint, selection.layer, selection.tokens, ())
        fitting = [
            (path, m.dictionary["sha256"])
            for path, m in sorted(complete, key=lambda one: one[1].dtype != "float32")
            if (m.dataset["fingerprint"], m.layer, m.tokens, m.ignore_labels) == tokens
            and m.latent_topk in (None, "all")
            and {*m.views} >= VIEWS
        ]
        sha256 = identify(saved[name])["sha256"] if fitting else ""
        for path in [path for path, of in fitting if of == sha256]:
            codes = CodeStore(path)
            if np.isin(examples[name], codes.images["example"].to_numpy()).all():
                log.info("%s: from its codes in %s", name, path)
                read[name] = codes
                break
    return read


def complete_codes(root: Path) -> Iterator[tuple[Path, CodesManifest]]:
    """The directories of complete codes below `root`; a warning for those of another version."""
    for file in sorted(root.glob(f"*/{FILE}")):
        try:
            if holds_codes(file.parent) and (manifest := CodesManifest.load(file.parent)).complete:
                yield file.parent, manifest
        except ValueError as error:
            log.warning("not read: %s", error)


def selection_of(codes: CodeStore, recording: Recording | None, root: Path, layer: int | None) -> Selection:
    """The encoded tokens, of `recording` or the recording of the codes' name below `root`; ValueError where it is another."""
    manifest = codes.manifest
    if missing := VIEWS - {*manifest.views}:
        raise ValueError(
            f"{codes.root} was encoded without views=[{','.join(sorted(missing))}]: encode again with them, or name the dictionary."
        )
    recording = root / manifest.dataset["name"] if recording is None else recording
    store = recording if isinstance(recording, ActivationStore) else ActivationStore(recording)
    if store.manifest.fingerprint != manifest.dataset["fingerprint"]:
        raise ValueError(
            f"{codes.root} has codes of another recording than {store.location.root}: give that of {manifest.dataset['name']}, "
            "dataset=/path/to/it."
        )
    if layer is not None and store.resolve_layer(layer) != manifest.layer:
        raise ValueError(f"layer={layer}: {codes.root} has codes of layer {manifest.layer}; leave layer out.")
    images = codes.images["example"].to_numpy()
    return Selection(store, manifest.layer, images, manifest.tokens, manifest.ignore_labels)
