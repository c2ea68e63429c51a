"""The page's top images: a few latents per dictionary, their best images and where on them they fire."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from saev.dictionary import Dictionary
from saev.shards import ActivationStore
from saev.visuals.columns import digits, whole
from saev.visuals.pictures import Album, heat, png
from saev.visuals.plots import thousands
from saev.visuals.settings import Choice
from saev.visuals.top_images import NOBODY, Survey, heatmaps


@dataclass(frozen=True)
class Shown:
    """One image of one latent: its thumbnail (None where the photo is gone) and its heat map (None without patches)."""

    example: int
    path: str
    value: str
    photo: bool
    heat: str | None


@dataclass(frozen=True)
class Latent:
    """A latent's caption and images."""

    number: int
    frequency: str
    images: str
    mean: str
    highest: str
    shown: list[Shown]
    about: str = ""  # what else is known of it


def gallery(
    dictionary: Dictionary,
    survey: Survey,
    store: ActivationStore,
    layer: int,
    album: Album,
    latents: Mapping[int, str],
    patches: bool,
) -> list[Latent]:
    """These latents of a dictionary, each with what to say of it; heat maps only where it codes patch tokens."""
    upper = {latent: float(survey.value[latent, 0]) for latent in latents}
    wanted: dict[int, list[int]] = {}  # example -> latents: an image is encoded once for all latents that show it
    for latent in latents:
        for example in survey.example[latent].tolist():
            if example != NOBODY:
                wanted.setdefault(example, []).append(latent)
    maps: dict[tuple[int, int], str] = {}
    for example, some in wanted.items() if patches else ():
        for latent, codes in zip(some, heatmaps(dictionary, store, layer, example, some), strict=True):
            maps[latent, example] = png(heat(codes, upper[latent]))
    return [_latent(latent, survey, album, maps, about) for latent, about in latents.items()]


def _latent(latent: int, survey: Survey, album: Album, maps: Mapping[tuple[int, int], str], about: str) -> Latent:
    pairs = zip(survey.example[latent].tolist(), survey.value[latent].tolist(), strict=True)
    shown = [
        Shown(example, album.path(example), digits(value), album.add(example), maps.get((latent, example)))
        for example, value in pairs
        if example != NOBODY
    ]
    return Latent(
        number=latent,
        frequency=f"{digits(100 * survey.frequency[latent], 2)} %",
        images=f"{whole(int(survey.images[latent]))} of {whole(survey.n_images)}",
        mean=digits(float(survey.mean_value[latent])),
        highest=digits(float(survey.value[latent, 0])),
        shown=shown,
        about=about,
    )


def why_none(survey: Survey, rule: Choice) -> str:
    """What to say where no latent can be shown."""
    if not survey.firings.any():
        return f"No latent fires on any of the {whole(survey.n_tokens)} tokens looked at: all are dead."
    low, high = (f"{thousands(100 * 10.0**bound)} %" for bound in (rule.rarest, rule.commonest))
    return f"No latent fires on {low} to {high} of the tokens and on at least {rule.images} images."


def spread(names: list[str], most: int) -> list[str]:
    """At most `most` of the names, evenly spaced, first and last among them.

    >>> spread(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    places = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[i] for i in places]
