"""Scores of images by many methods: sparse codes read from disk, all other scores pooled in one pass over the activations."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from saev.codes.store import CodeStore
from saev.progress import bar
from saev.saved import SavedDictionary
from saev.scoring.blocks import Scores
from saev.scoring.pooling import pooled_scores
from saev.scoring.scorers import TokenScorer, kind_of, on_device, scorer_of
from saev.scoring.stored import is_dense, pooled_codes, stored_codes
from saev.shards.selected_tokens import Selection


def scores_of_images(
    members: Sequence[SavedDictionary],
    scorers: Mapping[str, TokenScorer],
    selections: Mapping[str, Selection],
    pool: str,
    *,
    pools: Mapping[str, str] | None = None,
    codes: str | os.PathLike | None = None,
    batch_size: int = 4096,
    device: str = "cpu",
) -> tuple[dict[str, dict[str, Scores]], dict[str, dict[str, CodeStore]]]:
    """The scores of each selection's images by each method's prototypes, and the codes on disk of those that are sparse; both by
    method and selection.

    Sparse codes are read from `codes`, and written there first where they are missing; all others are pooled in one pass.

    Args:
        scorers: methods beside the dictionaries, by name.
        pool: of a prototype's scores over the tokens of an image: max, mean or top3 (mean of the three largest).
        pools: another pool than `pool` of some scorers.
    """
    first = next(iter(selections.values()))
    sparse = [
        one for one in members if one.path is not None and kind_of(one) != "pca" and not is_dense(one, first, device)
    ]
    dense: dict[str, TokenScorer] = {one.name: scorer_of(one, device) for one in members if one not in sparse}
    dense |= {name: on_device(scorer, device) for name, scorer in scorers.items()}
    scores: dict[str, dict[str, Scores]] = {name: {} for name in [one.name for one in members] + [*scorers]}
    stores: dict[str, dict[str, CodeStore]] = {one.name: {} for one in sparse}
    for side, selection in selections.items():
        if dense:
            with bar(f"Scores of {side} images", selection.spans.n_tokens) as advance:
                kinds = dict.fromkeys(dense, pool) | dict(pools or {})
                for name, pooled in pooled_scores(dense, selection, kinds, batch_size, device, advance).items():
                    scores[name][side] = pooled
        for one in sparse:
            stored = stores[one.name][side] = stored_codes(one, selection, codes, batch_size, device)
            scores[one.name][side] = pooled_codes(stored, np.asarray(selection.images), pool)
    return scores, stores
