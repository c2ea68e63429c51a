"""Which latents the page shows, and what of them."""

import logging
from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float32

from saev.contrasts.cards import Card, card_of
from saev.contrasts.maps import LatentMaps
from saev.contrasts.methods import BASELINES, Method
from saev.contrasts.settings import ContrastSettings
from saev.contrasts.study import Study
from saev.scoring.blocks import Scores

log = logging.getLogger(__name__)
SHOWN = 3  # methods of a layer with cards


def cards_of(
    study: Study, methods: Sequence[Method], contrast: pl.DataFrame, results: pl.DataFrame, settings: ContrastSettings
) -> dict[tuple[int, str, int, int], Card]:
    """The cards of the latents with the largest |z|: of the dictionaries whose best latents separate the groups best on average,
    of baselines where there is nothing else."""
    means = results.group_by("method", "kind").agg(pl.col("auroc").fill_null(0).mean())
    learned = means.filter(~pl.col("kind").is_in(BASELINES))
    best_first = (learned if len(learned) else means).sort("auroc", "method", descending=[True, False])
    known, cards = {method.name: method for method in methods}, {}
    for name in best_first["method"][:SHOWN]:
        method = known[name]
        maps = maps_of(method)
        for number, pair in enumerate(study.pairs):
            rows = contrast.filter((pl.col("method") == name) & (pl.col("pair") == pair.name))
            rows = rows.sort(pl.col("z").abs(), "latent", descending=[True, False]).head(settings.shown)
            images = np.searchsorted(study.images, np.concatenate([pair.a, pair.b, pair.third]))
            for latent in rows["latent"].to_list():
                codes = column(method.scores, latent)[images]
                cards[study.layer, name, number, latent] = card_of(
                    codes, pair, latent, maps, settings.images_per_group, settings.align
                )
    return cards


def maps_of(method: Method) -> LatentMaps | None:
    """What reads a method's maps; None where its codes are not stored by token, or have no grid."""
    if method.codes is None:
        return None
    try:
        return LatentMaps(method.codes)
    except ValueError as reason:
        log.info("%s: %s", method.name, reason)
        return None


def column(scores: Scores, latent: int) -> Float32[np.ndarray, " images"]:
    """One latent's pooled codes of all images."""
    values = scores[:, latent] if isinstance(scores, np.ndarray) else scores[:, [latent]].toarray().ravel()
    return values.astype(np.float32)
