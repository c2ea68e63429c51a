"""How far a latent's codes of two groups are apart: of every latent, from the sorted codes."""

import numpy as np
from jaxtyping import Float64, Int64

from saev.contrasts.ranks import Entries, Ranks, summed
from saev.contrasts.sides import Sides
from saev.scoring.ranking import Labels, Ranking, average_precisions

QUANTILES = (0.25, 0.5, 0.75)


def separation(entries: Entries, ranks: Ranks, sides: Sides) -> dict[str, Float64[np.ndarray, " latents"]]:
    """Statistics of each latent, by name.

    fires_a, fires_b: fraction of a group's images with a code above 0. mean_*, q25_*, q50_*, q75_*: of a group's codes, silent
    images included. difference: mean_a - mean_b. d: the difference in pooled standard deviations (Cohen); NaN where the codes
    of a group are all the same in both. auroc: the probability that a code of group a is above one of group b, ties count half,
    over the pairs of images of the same stratum; NaN without such pairs.
    """
    out: dict[str, np.ndarray] = {}
    in_a = sides.is_a[entries.position]
    means, squares = [], []
    for group, mask, n in (("a", in_a, len(sides.a)), ("b", ~in_a, len(sides.b))):
        of_group = entries.kept(mask)
        value = of_group.value.astype(np.float64)
        stored, fires = (
            np.bincount(of_group.latent, weights, entries.n_latents) for weights in (None, of_group.value > 0)
        )
        mean = np.bincount(of_group.latent, value, entries.n_latents) / n
        deviation = (value - mean[of_group.latent]) ** 2
        squares.append(np.bincount(of_group.latent, deviation, entries.n_latents) + (n - stored) * mean**2)
        means.append(mean)
        out |= {f"fires_{group}": fires / n, f"mean_{group}": mean}
        of_codes = quantiles(of_group, np.full(entries.n_latents, n), QUANTILES)
        out |= {f"q{100 * q:.0f}_{group}": column for q, column in zip(QUANTILES, of_codes.T, strict=True)}
    out["difference"] = means[0] - means[1]
    sd = np.sqrt((squares[0] + squares[1]) / max(sides.n_images - 2, 1))
    varies = sd > 1e-9 * np.maximum(np.abs(means[0]), np.abs(means[1]))  # not rounding
    out["d"] = np.divide(out["difference"], sd, out=np.full(len(sd), np.nan), where=varies)
    out["auroc"] = auroc(entries, ranks, sides)
    return out


def quantiles(
    entries: Entries, n: Int64[np.ndarray, " latents"], levels: tuple[float, ...]
) -> Float64[np.ndarray, "latents levels"]:
    """Quantiles of the codes of each latent, of which there are `n` with the silent ones; interpolated as by np.quantile."""
    stored = np.bincount(entries.latent, minlength=entries.n_latents)
    first = np.cumsum(stored) - stored
    values = np.append(entries.value, 0).astype(np.float64)

    def ascending(index: Int64[np.ndarray, "latents levels"]) -> Float64[np.ndarray, "latents levels"]:
        from_top = n[:, None] - 1 - index
        return values[np.where(from_top < stored[:, None], first[:, None] + from_top, -1)]

    exact = (n[:, None] - 1) * np.array(levels)
    below = np.floor(exact).astype(np.int64)
    low, high = ascending(below), ascending(np.minimum(below + 1, n[:, None] - 1))
    return low + (high - low) * (exact - below)


def auroc(entries: Entries, ranks: Ranks, sides: Sides) -> Float64[np.ndarray, " latents"]:
    """The area under the ROC curve of each latent for group a, over pairs of images of the same stratum."""
    n, n_a = sides.images.sum(0), sides.images_a
    a = np.flatnonzero(sides.is_a[entries.position])
    rank_sums = n_a * ranks.silent
    rank_sums += summed(entries.latent[a], sides.stratum[entries.position[a]], ranks.above[a], rank_sums.shape)
    pairs = n_a * (n - n_a)
    wins = np.where(pairs > 0, rank_sums - n_a * (n_a + 1) / 2, 0).sum(1)
    return wins / pairs.sum() if pairs.any() else np.full(entries.n_latents, np.nan)


class GroupLabels:
    """The groups of a pair as labels of a ranking."""

    def __init__(self, sides: Sides, n_rows: int):
        in_pair = np.zeros(n_rows, bool)
        values = np.zeros((n_rows, 2), np.int8)
        in_pair[sides.rows] = True
        values[sides.a, 0] = values[sides.b, 1] = 1
        self.labels = Labels(values)
        self.subset = self.labels.subset(in_pair)

    def average_precisions(self, ranking: Ranking) -> dict[str, Float64[np.ndarray, " latents"]]:
        """ap_a, ap_b: the AP of each group by descending codes, among the images of both; expected over orders of ties."""
        ap = average_precisions(ranking, self.labels, self.subset)
        return {"ap_a": ap[:, 0], "ap_b": ap[:, 1]}
