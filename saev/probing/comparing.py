"""`against=`: the best latents of a dictionary's classes compared with those of another one, on the same validation tokens."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from saev.metrics.paired import holm, p_value, rank_scores, ratio_p, swaps
from saev.metrics.resampling import MIN_IMAGES, interval
from saev.probing.bootstrap import ColumnCodes, FiringTokens, average_precisions, image_losses
from saev.probing.class_metrics import ClassMetrics
from saev.probing.inputs import ProbeInputs
from saev.probing.rows import ClassDraws, mean_of_classes, none_if_nan
from saev.probing.settings import ProbeSettings, Weights
from saev.probing.splits import TRUE
from saev.scoring.against import reference_rows, settings_of
from saev.scoring.scorers import kind_of

log = logging.getLogger(__name__)


class Probed(NamedTuple):
    """What is known of one dictionary's best latents on the validation tokens."""

    metrics: ClassMetrics
    of_class: Int64[np.ndarray, " classes"]
    firing: FiringTokens
    draws: ClassDraws

    def codes(self, number: int) -> ColumnCodes:
        """The codes of a class's best latent."""
        return self.firing.of(int(self.of_class[number]), number)


def reference_of(inputs: ProbeInputs, against: str | None) -> list[str]:
    """The names of the dictionaries or codes that `against` means; none for None. ValueError where there is none of this name or kind."""
    if against is None:
        return []
    kinds = {one.name: kind_of(one) for one in inputs.dictionaries} | dict.fromkeys(inputs.codes, "codes")
    return reference_rows(against, kinds, {one.name: settings_of(one) for one in inputs.dictionaries})


def compare(
    one: Probed, reference: Sequence[Probed], permutations: int, seed: int, weights: Weights
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """(a row per class, numbers of the dictionary): differences to the mean of the reference's, with 95 % intervals over images and p.

    Classes: diff_ap, diff_ap_low, diff_ap_high, p_ap, p_ap_holm (over the classes). Dictionary: the same of `map` and `r`, over the classes
    that all have. The latents are fixed: those chosen in training. p_r is NaN with balanced weights. NaN for a class in fewer than
    MIN_IMAGES images.
    """
    every, n_classes, n_images = [one, *reference], len(one.of_class), len(one.firing.tokens)
    counted = np.array([np.count_nonzero(one.firing.positives(c)) >= MIN_IMAGES for c in range(n_classes)], bool)
    both = np.all([np.isfinite(other.metrics.ap.numpy()) for other in every], 0)
    ap = [other.metrics.ap.numpy() for other in every]
    gain, gain_draws = ap[0] - np.mean(ap[1:], 0), one.draws.ap - np.mean([other.draws.ap for other in reference], 0)
    swapped = swaps(n_images, permutations, seed)
    permuted = np.full((n_classes, 1 + permutations), np.nan)
    for c in np.flatnonzero(both).tolist() if permutations else ():
        pairs = [swapped_precisions(one.codes(c), other.codes(c), swapped) for other in reference]
        permuted[c] = np.mean([a - b for a, b in pairs], 0)
    p = np.array([p_value(of[0], of[1:]) if enough else np.nan for of, enough in zip(permuted, counted, strict=True)])
    rows = []
    for c, adjusted in enumerate(holm(p)):
        rows.append(
            ends("ap", gain[c] if both[c] else np.nan, gain_draws[c], not counted[c])
            | {"p_ap": p[c], "p_ap_holm": adjusted}
        )
    if not both.any():
        return rows, {}
    few = n_images < MIN_IMAGES
    total = ends("map", gain[both].mean(), mean_of_classes(gain_draws[both]), few)
    means = permuted[both].mean(0)  # a permutation without a positive has none
    total["p_map"] = np.nan if few or not permutations else p_value(means[0], means[1:])
    ce = [other.metrics.ce.numpy()[both] for other in every]
    prior, drawn_prior = np.nansum(one.metrics.ce_prevalence.numpy()[both]), np.nansum(one.draws.prior[both], 0)
    losses = [np.nansum(other.draws.loss[both], 0) for other in every]
    better = (np.mean(losses[1:], 0) - losses[0]) / np.where(drawn_prior > 0, drawn_prior, np.nan)
    saved = (np.nansum(np.mean(ce[1:], 0)) - np.nansum(ce[0])) / prior if prior > 0 else np.nan
    total |= ends("r", saved, better, few)
    if permutations and weights == "none" and not few:
        by_image = [losses_by_image(other, np.flatnonzero(both)) for other in every]
        ones = np.ones(n_images)
        total["p_r"] = ratio_p((by_image[0], ones), (np.mean(by_image[1:], 0), ones), permutations, seed)
    return rows, total


def ends(name: str, diff: float, draws: Float64[np.ndarray, " n"], few: bool) -> dict[str, float]:
    """diff_<name>, diff_<name>_low, diff_<name>_high; without an interval from too few images."""
    low, high = interval(draws[:0] if few else draws, float(diff))
    return {f"diff_{name}": float(diff), f"diff_{name}_low": low, f"diff_{name}_high": high}


def swapped_precisions(
    a: ColumnCodes, b: ColumnCodes, swapped: Bool[np.ndarray, "images n"]
) -> tuple[Float64[np.ndarray, " n_and_1"], Float64[np.ndarray, " n_and_1"]]:
    """The AP of both codes of one class where the ranks of the swapped images are exchanged (`rank_scores`); first without any exchange."""
    n = len(a.tokens)
    scores = [rank_scores(codes.values) for codes in (a, b)]
    together = ColumnCodes(
        np.concatenate(scores).astype(np.float32),
        np.concatenate([a.positive, b.positive]),
        np.concatenate([a.image, b.image + n]),
        np.concatenate([a.tokens, b.tokens]),
        np.concatenate([a.positives, b.positives]),
    )
    swapped = np.concatenate([np.zeros((n, 1), bool), swapped], 1)
    kept, other = np.concatenate([~swapped, swapped]), np.concatenate([swapped, ~swapped])
    return tuple(average_precisions(together, drawn.astype(np.int64)) for drawn in (kept, other))  # type: ignore[return-value]


def losses_by_image(one: Probed, classes: Int64[np.ndarray, " classes"]) -> Float64[np.ndarray, " images"]:
    """Cross-entropy (nats) of each image's tokens, summed over the classes."""
    b, w = one.metrics.b.numpy(), one.metrics.w.numpy()
    return np.sum([np.add(*image_losses(one.codes(int(c)), float(b[c]), float(w[c]))) for c in classes], 0)


def compare_all(
    probed: Mapping[str, Probed], reference: Sequence[str], permutations: int, seed: int, weights: Weights
) -> dict[str, tuple[list[dict[str, float]], dict[str, float]]]:
    """`compare` of each dictionary but the reference."""
    others = [probed[name] for name in reference]
    return {
        name: compare(one, others, permutations, seed, weights) for name, one in probed.items() if name not in reference
    }


def check_permutations(reference: Sequence[str], settings: ProbeSettings, n_classes: int) -> None:
    """Say where so few permutations cannot give a p that is small after Holm's adjustment."""
    if reference and 0 < settings.permutations < (least := 20 * n_classes - 1):
        log.warning(
            "permutations=%d: p_ap_holm of %d classes cannot be below .05; permutations=%d can", settings.permutations, n_classes, least
        )  # fmt: skip


def add_differences(
    classes: list[dict[str, Any]],
    results: list[dict[str, Any]],
    compared: Mapping[str, tuple[list[dict[str, float]], dict[str, float]]],
    settings: ProbeSettings,
) -> None:
    """Put the differences to the reference into the rows with true labels."""
    for name, (by_class, total) in compared.items():
        of_classes = [row for row in classes if (row["member"], row["labels"]) == (name, TRUE)]
        of_results = [row for row in results if (row["member"], row["labels"]) == (name, TRUE)]
        total = {**total, "against": settings.against, "diff_latents": "fixed"}
        for row, numbers in zip([*of_classes, *of_results], [*by_class, total], strict=True):
            row.update({key: none_if_nan(value) for key, value in numbers.items()})
