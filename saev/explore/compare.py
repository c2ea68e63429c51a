"""Two dictionaries: which latents of one have a partner in the other, and which only one of them has."""

import dataclasses

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64

from saev.evaluation.compared import directions
from saev.explore.opened import Opened
from saev.explore.opening import Session, opened_at
from saev.metrics.matching import CORRELATED, SAME, best_matches
from saev.scoring.images_of_latents import standardised

MOST = 2000  # images over which codes are correlated
KINDS = ("in both", "only in the first", "only in the second")


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """The latents of two dictionaries and their partners.

    `pairs`: a row per latent of the first with its most similar latent of the second (`other`), and per latent of the second without a
    partner with its most similar one of the first: latent, other, similarity, mutual (each is the other's most similar), where (of
    KINDS), frequency and other_frequency, and the first's name and class where it has them.
    """

    by: str  # cosine of atoms, or correlation of codes over `n_images` images
    n_images: int
    threshold: float  # of the similarity, from which two latents count as partners: SAME, or CORRELATED
    pairs: pl.DataFrame
    counts: tuple[int, int, int, int]  # latents of the first with a partner, and all; the same of the second
    null: float  # fraction of the first's latents that reach the threshold with the second's dimensions, or images, permuted

    def summary(self) -> str:
        """The counts in a sentence."""
        with_a, n_a, with_b, n_b = self.counts
        over = f" over {self.n_images:,} images" if self.n_images else ""
        return (
            f"{with_a:,} of {n_a:,} latents of the first have a partner in the second, {with_b:,} of {n_b:,} the reverse: "
            f"{self.by}{over} of at least {self.threshold}. With {'images' if self.n_images else 'dimensions'} permuted: "
            f"{100 * self.null:.1f} % of the first."
        )


def have_common_atoms(a: Opened, b: Opened) -> bool:
    """Whether atoms can be compared: of the same recording and layer."""
    return (a.codes.manifest.dataset, a.codes.manifest.layer) == (b.codes.manifest.dataset, b.codes.manifest.layer)


def compare(a: Opened, b: Opened, by_codes: bool | None = None, seed: int = 0) -> Comparison:
    """Partners by cosine of atoms, or by correlation of the largest codes on the images that both have encoded.

    Args:
        by_codes: None: where atoms cannot be compared. ValueError for False there, and where fewer than two images are shared.
    """
    common = have_common_atoms(a, b)
    by_codes = not common if by_codes is None else by_codes
    if not by_codes and not common:
        raise ValueError("atoms of different recordings or layers cannot be compared: compare codes.")
    rows_a, rows_b = shared_rows(a, b) if by_codes else (None, None)
    if rows_a is not None and len(rows_a) < 2:
        raise ValueError("the two have no encoded images in common (by path): their codes cannot be compared.")
    x, y = (torch.from_numpy(vectors(one, rows)) for one, rows in ((a, rows_a), (b, rows_b)))
    threshold = CORRELATED if by_codes else SAME
    matches = best_matches(x, y)
    permuted = torch.from_numpy(np.random.default_rng(seed).permutation(y.shape[1]))
    null = (best_matches(x, y[:, permuted]).similarity_a >= threshold).double().mean().item()
    pairs = pair_table(a, b, [part.numpy() for part in matches], threshold)
    with_a, with_b = (int((cosine >= threshold).sum()) for cosine in (matches.similarity_a, matches.similarity_b))
    by = "correlation of codes" if by_codes else "cosine of atoms"
    n_images = 0 if rows_a is None else len(rows_a)
    return Comparison(by, n_images, threshold, pairs, (with_a, len(x), with_b, len(y)), null)


def compare_with(
    first: Opened, path: str, session: Session, by_codes: bool | None = None
) -> tuple[Comparison | None, Opened | None, str]:
    """(the comparison with the dictionary in a folder, that dictionary, a sentence); the first two None where it cannot be compared."""
    try:
        second = opened_at(path, session)
        if second is None:
            return None, None, "It has no codes yet: open it under Runs and encode it."
        made = compare(first, second, by_codes)
    except ValueError as error:
        return None, None, str(error)
    return made, second, made.summary()


def shared_rows(a: Opened, b: Opened) -> tuple[Int64[np.ndarray, " images"], Int64[np.ndarray, " images"]]:
    """Rows of the images with the same path in both, at most MOST of them, evenly chosen."""
    tables = [one.codes.images.select("path").with_row_index("row") for one in (a, b)]
    both = tables[0].unique("path", keep="first").join(tables[1].unique("path", keep="first"), "path").sort("row")
    chosen = both[np.unique(np.linspace(0, max(len(both) - 1, 0), min(len(both), MOST)).astype(np.int64)).tolist()]
    return tuple(chosen[name].to_numpy().astype(np.int64) for name in ("row", "row_right"))  # type: ignore[return-value]


def vectors(one: Opened, rows: Int64[np.ndarray, " images"] | None) -> Float32[np.ndarray, "n_latents n"]:
    """The atoms as directions of raw activations, or the standardised codes of these images, whose cosine is the correlation."""
    if rows is None:
        return directions(one.dictionary).detach().float().numpy()
    return standardised(one.pooled[rows].T.toarray().astype(np.float32))


def pair_table(a: Opened, b: Opened, matches: list[np.ndarray], threshold: float) -> pl.DataFrame:
    """See `Comparison.pairs`; the first's latents by falling similarity, then the second's without a partner."""
    similarity_a, of_a, similarity_b, of_b = matches
    numbers_a, numbers_b = np.arange(len(of_a)), np.arange(len(of_b))
    rest = numbers_b[similarity_b < threshold]
    table = pl.DataFrame(
        {
            "latent": np.concatenate([numbers_a, of_b[rest]]),
            "other": np.concatenate([of_a, rest]),
            "similarity": np.concatenate([similarity_a, similarity_b[rest]]).astype(np.float64),
            "where": np.concatenate([np.where(similarity_a >= threshold, *KINDS[:2]), np.full(len(rest), KINDS[2])]),
        }
    )
    mutual = of_b[table["other"].to_numpy()] == table["latent"].to_numpy()
    mutual &= of_a[table["latent"].to_numpy()] == table["other"].to_numpy()
    known = [name for name in ("name", "class") if name in a.latents.columns]
    first = a.latents.select("latent", "frequency", *known)
    second = b.latents.select(other="latent", other_frequency="frequency")
    table = table.with_columns(mutual=mutual).join(first, "latent", how="left").join(second, "other", how="left")
    order = pl.col("where") == KINDS[2]
    return table.sort(order, "similarity", descending=[False, True], maintain_order=True)
