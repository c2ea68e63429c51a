"""The page's top images: the chosen latents of a dictionary, their best images and maps."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from saev.annotations import titled
from saev.codes.store import CodeStore
from saev.dictionary import Dictionary
from saev.shards import ActivationStore
from saev.visuals.columns import digits, thousands, whole
from saev.visuals.pictures import Album, Shown
from saev.visuals.settings import Choice
from saev.visuals.top_images import NONE, Survey, grid, heatmaps


@dataclass(frozen=True)
class Latent:
    """A latent's caption and images."""

    number: str  # with its name
    frequency: str
    images: str
    mean: str
    highest: str
    half: str  # of the highest
    shown: list[Shown]
    about: str = ""  # caption: the class of a probe

    @property
    def labels(self) -> str:
        """The classes of its images."""
        return " ".join(dict.fromkeys(one.label for one in self.shown))

    @property
    def marked(self) -> bool:
        """Whether an image has a map."""
        return any(one.grid for one in self.shown)


def gallery(
    dictionary: Dictionary | CodeStore,
    survey: Survey,
    store: ActivationStore,
    layer: int,
    album: Album,
    latents: Mapping[int, str],
    patches: bool,
    names: Mapping[int, str],
) -> list[Latent]:
    """These latents (number -> caption) of a dictionary, or of its codes, with their names; heat maps only where it reads patch tokens."""
    shown_by: dict[int, list[int]] = {}  # example -> latents: an image is encoded once for all of them
    for latent in latents:
        for example in survey.example[latent].tolist():
            if example != NONE:
                shown_by.setdefault(example, []).append(latent)
    maps: dict[tuple[int, int], Float[np.ndarray, "grid_h grid_w"]] = {}
    for example, numbers in shown_by.items():
        if not patches or grid(store, example) is None:
            continue
        for latent, codes in zip(numbers, heatmaps(dictionary, store, layer, example, numbers), strict=True):
            maps[latent, example] = codes
    return [_latent(latent, survey, album, maps, about, names) for latent, about in latents.items()]


def _latent(
    latent: int,
    survey: Survey,
    album: Album,
    maps: Mapping[tuple[int, int], Float[np.ndarray, "grid_h grid_w"]],
    about: str,
    names: Mapping[int, str],
) -> Latent:
    highest = float(survey.value[latent, 0])
    pairs = zip(survey.example[latent].tolist(), survey.value[latent].tolist(), strict=True)
    shown = [
        album.shown(example, digits(value), maps.get((latent, example)), highest)
        for example, value in pairs
        if example != NONE
    ]
    return Latent(
        number=titled(latent, names),
        frequency=f"{digits(100 * survey.frequency[latent], 2)} %",
        images=f"{whole(int(survey.images[latent]))} of {whole(survey.n_images)}",
        mean=digits(float(survey.mean_value[latent])),
        highest=digits(highest),
        half=digits(highest / 2),
        shown=shown,
        about=about,
    )


def why_none(survey: Survey, rule: Choice) -> str:
    """The sentence for a dictionary of which no latent is shown."""
    if not survey.firings.any():
        return f"No latent fires on any of the {whole(survey.n_tokens)} tokens: all are dead."
    low, high = (f"{thousands(100 * 10.0**bound)} %" for bound in (rule.rarest, rule.commonest))
    return f"No latent fires on {low} to {high} of the tokens and on at least {rule.images} images."


def spread(names: list[str], most: int) -> list[str]:
    """At most `most` of the names, evenly spaced, with the first and the last.

    >>> spread(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    indices = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[i] for i in indices]
