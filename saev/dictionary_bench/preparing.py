"""Everything of a bench that is read and checked before anything is encoded."""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from saev.dictionary_bench.altered_images import ALTERATIONS, FOLDER, write_pairs
from saev.dictionary_bench.effects import Given, without_effect
from saev.dictionary_bench.embeddings import embeddings_from_backbone, embeddings_from_file, embeddings_from_recording
from saev.dictionary_bench.hierarchy import siblings
from saev.dictionary_bench.inputs import Inputs, classes_of_images, concepts_of, drawn_images, image_keys
from saev.dictionary_bench.paired_images import ImagePairs, read_pairs
from saev.dictionary_bench.settings import BenchSettings
from saev.images.folder import FolderImages
from saev.images.source import ImageSource
from saev.probing.labels import ids_of
from saev.saved import Recording, SavedDictionary, select_tokens
from saev.settings import Examples
from saev.shards.reader import ActivationStore
from saev.shards.selected_tokens import Selection
from saev.trait_evaluation.sources import ImageTraits
from saev.vits.activation_site import differences
from saev.vits.recording import record
from saev.vits.source import VitSource

log = logging.getLogger(__name__)
Selections = Mapping[str, Selection]


class Elsewhere(NamedTuple):
    """Another labelled recording: the tokens of each dictionary, and a class per image."""

    selections: Selections
    labels: Int64[np.ndarray, " images"]


@dataclasses.dataclass(frozen=True)
class BenchImages:
    """The images that a command gives, and the model that embeds them."""

    recorded: ImageSource | None = None
    vit: VitSource | None = None
    embedder: VitSource | None = None
    embeddings: Float[np.ndarray, "images width"] | None = None
    concepts: ImageTraits | None = None


def selected(
    saved: Sequence[SavedDictionary],
    recording: Recording | None,
    activations: str | os.PathLike | None,
    layer: int | None,
    tokens: str | None,
    examples: Examples,
) -> dict[str, Selection]:
    """The tokens of each dictionary (`select_tokens`), of the images that have any: a row of all measures is one of these images."""
    chosen = {one.name: select_tokens(one, recording, activations, layer, tokens, examples) for one in saved}
    return {name: dataclasses.replace(one, images=np.unique(one.spans.example)) for name, one in chosen.items()}


def check_same_images(chosen: Selections, examples: Examples) -> None:
    """ValueError where two dictionaries would be measured on different images: they could not be compared."""
    names = list(chosen)
    sets = {name: chosen[name].store.manifest.meaning.get("images") for name in names}
    keys = {name: (sets[name], *image_keys(chosen[name].store, chosen[name].images)) for name in names}
    for name in names[1:]:
        if keys[name] != keys[names[0]]:
            remedy = "" if examples == "all" else ", or examples=all"
            raise ValueError(
                f"{names[0]} would be measured on {len(chosen[names[0]].images)} images of {chosen[names[0]].store.name} and {name} on "
                f"{len(chosen[name].images)} others, of {chosen[name].store.name}: give one recording, dataset=DIRECTORY{remedy}."
            )


def log_different_tokens(chosen: Selections) -> None:
    """Warn where dictionaries are measured on different tokens of the images: their numbers are of different things."""
    kinds: dict[str, list[str]] = {}
    for name, one in chosen.items():
        ignored = f" without ignore_labels={list(one.ignore_labels)}" if one.ignore_labels else ""
        kinds.setdefault(f"tokens={one.tokens}{ignored}", []).append(name)
    if len(kinds) > 1:
        shown = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items())
        log.warning("dictionaries are measured on different tokens, each on those it was trained on: %s", shown)


def log_without_effect(
    chosen: Selections,
    settings: BenchSettings,
    images: BenchImages,
    transfer: Sequence[Recording],
    splice: bool,
    against: Sequence[str],
) -> None:
    """Warn of options that no measure of this bench reads, and say to what coalitions are matched where there is a choice."""
    masks = next(iter(chosen.values())).store.token_labels is not None
    embedded = settings.embeddings is not None or images.embedder is not None or images.embeddings is not None
    given = Given(
        settings.labels is not None, settings.hierarchy is not None, embedded, bool(transfer), images.concepts is not None, masks,
        settings.pairs is not None, settings.pairs in ALTERATIONS, splice, {*against} != {*chosen},
    )  # fmt: skip
    if idle := without_effect(settings, given):
        log.warning("no effect on what is measured here: %s", ", ".join(idle))
    concepts = ("traits=", "the classes of the masks", f"labels={settings.labels}")
    there = [name for name, on in zip(concepts, (given.traits, masks, given.labels), strict=True) if on]
    if len(there) > 1 and "coalitions" not in settings.without:
        log.info("coalitions are matched to %s, not to %s", there[0], " or ".join(there[1:]))


@contextmanager
def in_terms_of(**keys: str) -> Iterator[None]:
    """Errors that name `key=` and `key.name=` name the option of this verb instead that was given for it.

    >>> with in_terms_of(vit="embedder"):
    ...     raise ValueError("vit.arch=a is no model.")
    Traceback (most recent call last):
    ValueError: embedder.arch=a is no model.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        for key, option in keys.items():
            text = re.sub(rf" \(without {key}= [^)]*\)", "", text)
            text = re.sub(rf"\b{key}(?=[=.]\S)", option, text)
        raise ValueError(text) from error


def read_inputs(first: Selection, settings: BenchSettings, images: BenchImages, device: str) -> Inputs:
    """What the measures read beside codes, of the images of `first`; pairs that are to be made are not among it."""
    store, numbers = first.store, first.images
    if images.embedder is not None:
        with in_terms_of(vit="embedder"):
            images.embedder.check()
    if images.recorded is not None:
        images.recorded.check()
        images.recorded.indices(store.examples["key"].gather(numbers).to_list(), store.name)
    classes = classes_of_images(store, settings.labels, numbers) if settings.labels else None
    groups = siblings(settings.hierarchy, classes.names) if settings.hierarchy and classes else None
    paths = list(image_keys(store, numbers))
    pairs = None
    if settings.pairs is not None and settings.pairs not in ALTERATIONS:
        pairs = read_pairs(settings.pairs, paths, store.name)
    embeddings = embeddings_of(first, settings, images, device)
    if embeddings is not None and not (np.linalg.norm(embeddings, axis=1) > 0).all():
        raise ValueError("embeddings of some images are 0, so that they have no direction: embed these images again.")
    concepts = concepts_of(store, images.concepts, settings.ignore_labels, classes, numbers)
    drawn = drawn_images(len(numbers), settings.bootstrap, settings.seed)
    return Inputs(drawn, classes, concepts, groups, embeddings, pairs)


def embeddings_of(
    first: Selection, settings: BenchSettings, images: BenchImages, device: str
) -> Float[np.ndarray, "images width"] | None:
    """The embeddings that are given in memory, in a file, by another recording of the images, or by a backbone; None without."""
    store, numbers = first.store, first.images
    if settings.embeddings is not None and images.embedder is not None:
        raise ValueError(f"embeddings={settings.embeddings} and vit@embedder= both embed the images: give one of them.")
    if settings.embeddings is not None:
        if Path(settings.embeddings).is_dir():
            return embeddings_from_recording(ActivationStore(settings.embeddings), store, numbers)
        return embeddings_from_file(settings.embeddings, store, numbers)
    if images.embedder is not None:
        if images.recorded is None:
            raise ValueError("vit@embedder=... needs the images that were recorded: give images=.")
        with in_terms_of(vit="embedder"):
            return embeddings_from_backbone(images.embedder, images.recorded, store, numbers, -1, device=device)
    if images.embeddings is not None and len(images.embeddings) != len(numbers):
        raise ValueError(
            f"embeddings are of {len(images.embeddings)} images, {len(numbers)} are measured: give one row per image, in their order."
        )
    return images.embeddings


def open_transfer(
    saved: Sequence[SavedDictionary],
    chosen: Selections,
    recordings: Sequence[Recording],
    settings: BenchSettings,
    layer: int | None,
) -> dict[str, Elsewhere]:
    """The other recordings by name, all images of each. ValueError without labels, and for a recording that is measured or given twice."""
    if recordings and settings.labels is None:
        raise ValueError("transfer= needs the classes of images: give labels=COLUMN, a column of all recordings.")
    out: dict[str, Elsewhere] = {}
    for recording in recordings:
        with in_terms_of(dataset="transfer"):
            selections = selected(saved, recording, None, layer, settings.tokens, "all")
        first = selections[saved[0].name]
        known = {
            one.store.manifest.fingerprint
            for of in (chosen, *(e.selections for e in out.values()))
            for one in of.values()
        }
        if first.store.manifest.fingerprint in known or first.store.name in out:
            raise ValueError(
                f"transfer={first.store.name}: is measured itself, or given twice: give each other recording once."
            )
        classes = classes_of_images(first.store, str(settings.labels), first.images)
        out[first.store.name] = Elsewhere(selections, classes.number)
    return out


def record_altered(
    saved: Sequence[SavedDictionary],
    chosen: Selections,
    settings: BenchSettings,
    images: BenchImages,
    directory: Path | None,
) -> tuple[Selections, ImagePairs]:
    """Pairs of images that are made by `settings.pairs`, recorded at the dictionaries' layers. ValueError without images."""
    how: Any = settings.pairs  # one of ALTERATIONS
    first = chosen[saved[0].name]
    if images.recorded is None or images.vit is None or directory is None:
        raise ValueError(f"pairs={how} makes pictures and records them: give images=, vit= and a directory.")
    for name, selection in chosen.items():
        recorded = selection.store.manifest.meaning.get("vit") or {}
        if differ := differences(recorded, images.vit.identity()):
            raise ValueError(
                f"pairs={how}: {name} was recorded by another backbone than vit= ({', '.join(differ)}): give that "
                "one as for `saev record`, with vit.img_size= and vit.random_weights=; bench other backbones apart."
            )
    indices = images.recorded.indices(list(image_keys(first.store, first.images)), first.store.name)
    labelling = images.recorded.labelling
    ignored = ids_of("ignore_labels", settings.ignore_labels, labelling.classes if labelling else {})
    table = write_pairs(
        images.recorded, indices, directory / "pairs", how, settings.pairs_per_class, settings.seed, ignored
    )
    layers = sorted({selection.layer for selection in chosen.values()})
    pictures = FolderImages(root=str(table.parent / FOLDER), name=f"pairs_{how}")
    store = record(pictures, images.vit, layers, root=table.parent / "activations", device=settings.device)
    selections = {
        name: dataclasses.replace(
            one, store=store, images=np.flatnonzero(store.tokens_per_image(one.layer)), ignore_labels=()
        )
        for name, one in chosen.items()
    }
    paths = list(image_keys(store, selections[saved[0].name].images))
    return selections, read_pairs(table, paths, store.name)
