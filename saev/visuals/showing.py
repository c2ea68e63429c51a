"""Dictionaries -> pages of the images behind their latents: named latents, the best of probed classes, or chosen by rule."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from saev.codes.manifest import holds_codes
from saev.codes.store import CodeStore
from saev.device import check_device, resolve_device
from saev.images.source import ImageSource
from saev.saved import Dictionaries, Recording, SavedDictionary, find_dictionaries, select_tokens, shared_passes
from saev.saved_folders import names
from saev.visuals.choose import latents_of_classes, read_classes
from saev.visuals.codes import codes_of, selection_of
from saev.visuals.report import evenly, write_report
from saev.visuals.settings import ShowSettings

log = logging.getLogger(__name__)


def show(
    dictionaries: Dictionaries,
    recording: Recording | None = None,
    settings: ShowSettings = ShowSettings(),  # noqa: B008 it is frozen
    *,
    layer: int | None = None,
    probe: str | os.PathLike | pl.DataFrame | None = None,
    images: ImageSource | None = None,
    directory: str | os.PathLike | None = None,
    activations: str | os.PathLike | None = None,
    codes: str | os.PathLike | None = None,
    progress: bool = False,
) -> list[Path]:
    """Write a page, latents.html, for each recording and layer that the dictionaries read; the pages' paths.

    Args:
        dictionaries: folders of dictionaries, runs, sweeps or codes, or a mapping of names to dictionaries in memory.
        recording, layer: the activations; None: those that each dictionary was trained on.
        probe: a probe run's directory or its table of classes: show the best latents of its classes.
        images: the images that were recorded; None: heat maps without photos.
        directory: where to write; None: $SAEV_OUTPUTS/show.
        activations: the folder of recordings where `recording` is None; None: $SAEV_OUTPUTS/activations.
        codes: the folder of codes, which are read instead of encoding the activations again; None: $SAEV_OUTPUTS/codes.

    Raises ValueError, before any image is read, for what does not fit.
    """
    if settings.latents is not None and probe is not None:
        raise ValueError("latents= and probe= both say which latents to show: give one of them.")
    if settings.classes is not None and probe is None:
        raise ValueError(
            f"classes={list(settings.classes)}: give the probe run that scored these classes, probe=outputs/probe/<date>/<run>."
        )
    check_device(settings.device)
    given, coded = without_codes(dictionaries, settings)
    saved = {one.name: one for one in find_dictionaries(given)} if given or not coded else {}
    shown = [*saved.values(), *(SavedDictionary(n, None, {"n_latents": one.n_latents}) for n, one in coded.items())]
    chosen = named_latents(shown, settings, probe)
    annotated = {name: one.names() for name, one in {**saved, **coded}.items()}
    if images is not None:
        images.check()
    selections = {
        name: select_tokens(one, recording, activations, layer, examples=settings.examples)
        for name, one in saved.items()
    }
    outputs = Path(os.environ.get("SAEV_OUTPUTS", "outputs"))
    recordings = outputs / "activations" if activations is None else Path(activations)
    selections |= {name: selection_of(one, recording, recordings, layer) for name, one in coded.items()}
    for name, selection in selections.items():
        if selection.store.location.remote:
            raise ValueError(
                f"{name}: {selection.store.name} is remote, its images cannot be read one by one: copy it here."
            )
        if images is not None:
            images.indices(selection.store.examples["path"].gather(selection.images).to_list(), selection.store.name)
    directory = outputs / "show" if directory is None else Path(directory)
    surveyed = {n: evenly(s.images, settings.most_images or len(s.images)) for n, s in selections.items()}
    of_saved = {name: selections[name] for name in saved}
    coded |= codes_of(saved, of_saved, surveyed, outputs / "codes" if codes is None else Path(codes))
    pages = []
    for number, group in enumerate(shared_passes(selections), 1):
        selection = selections[group[0]]
        log.info("%s layer %d: %s", selection.store.name, selection.layer, "; ".join(group))
        pages.append(
            write_report(
                directory / ("latents.html" if number == 1 else f"latents-{number}.html"),
                rows=[],
                members={n: coded.get(n) or saved[n].load(resolve_device(settings.device)) for n in group},
                store=selection.store,
                layer=selection.layer,
                tokens=selection.tokens,
                examples=surveyed[group[0]],
                examples_are={"all": "recorded", "held_out": "held-out"}[settings.examples],
                images=images,
                credits=[images.credits()] if images else [],
                title="Latents",
                choice=settings.choice,
                chosen=chosen,
                names=annotated,
                n_images=settings.n_images,
                max_members=len(group),
                progress=progress,
            )
        )
    if images is None:
        log.warning("no photos are shown: give the images that were recorded, e.g. images=folder images.root=/path")
    return pages


def without_codes(dictionaries: Dictionaries, settings: ShowSettings) -> tuple[Dictionaries, dict[str, CodeStore]]:
    """(what is named apart from directories of codes, codes by name)."""
    if isinstance(dictionaries, Mapping | SavedDictionary):
        return dictionaries, {}
    given = [dictionaries] if isinstance(dictionaries, str | os.PathLike) else list(dictionaries)
    folders = [Path(one) for one in given if not isinstance(one, SavedDictionary) and holds_codes(one)]
    if folders and settings.examples != "all":
        raise ValueError(
            f"examples={settings.examples}: {folders[0]} has codes of chosen images already: leave examples out, or name the dictionary."
        )
    rest = [one for one in given if isinstance(one, SavedDictionary) or Path(one) not in folders]
    return rest if folders else dictionaries, dict(zip(names(folders), map(CodeStore, folders), strict=True))


def named_latents(
    saved: Sequence[SavedDictionary], settings: ShowSettings, probe: str | os.PathLike | pl.DataFrame | None
) -> dict[str, dict[int, str]]:
    """Dictionary -> latent -> caption, of the named latents or of a probe's classes; {} where the rule chooses."""
    if probe is not None:
        classes = read_classes(probe)
        return {one.name: latents_of_classes(classes, one.name, settings.classes) for one in saved}
    for one in saved:
        for latent in settings.latents or ():
            if not 0 <= latent < one.config["n_latents"]:
                raise ValueError(
                    f"latents: {latent} is not in {one.name}, whose latents are 0 to {one.config['n_latents'] - 1}."
                )
    return {one.name: dict.fromkeys(settings.latents, "") for one in saved} if settings.latents else {}
