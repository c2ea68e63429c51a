"""One latent: the images on which it fires, by rule, and its neighbours among the other latents."""

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64
from scipy.sparse import csr_matrix

from saev.codes.store import CodeStore

MOST = 2000  # images whose codes are multiplied


def column(codes: CodeStore, latent: int) -> tuple[Int64[np.ndarray, " firing"], Float32[np.ndarray, " firing"]]:
    """(rows, ascending; codes) of a latent in `codes.pooled("max")`, read from the codes by latent: takes as long as it fires often."""
    tokens, values = codes.latent(latent)
    start, stop = (codes.images["rows"].struct.field(name).to_numpy() for name in ("start", "stop"))
    row = np.searchsorted(start, tokens, "right") - 1
    first = np.flatnonzero(np.diff(row, prepend=-1))
    rows, fires = row[first], np.diff(np.append(first, len(row)))
    largest = np.maximum.reduceat(values, first) if len(first) else values
    return rows, np.where(fires < (stop - start)[rows], np.maximum(largest, 0), largest)


def chosen_images(
    rows: Int64[np.ndarray, " firing"], values: Float32[np.ndarray, " firing"], n: int = 8, seed: int = 0
) -> dict[str, Int64[np.ndarray, " chosen"]]:
    """Rows of images by heading: the n highest codes, n random ones among those that fire, and n evenly from highest to lowest.

    Of equal codes the first image comes first.
    """
    order = rows[np.argsort(-values, kind="stable")]
    random = np.random.default_rng(seed).permutation(rows)[:n]
    places = np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(np.int64))
    return {
        "Highest codes": order[:n],
        "Random images on which it fires": random,
        "From the highest to the lowest code": order[places],
    }


def norms(pooled: csr_matrix) -> Float32[np.ndarray, " n_latents"]:
    """The Euclidean norm of each latent's pooled codes over images."""
    n_latents = pooled.get_shape()[1]
    squares = np.bincount(pooled.indices, pooled.data.astype(np.float64) ** 2, minlength=n_latents)
    return np.sqrt(squares).astype(np.float32)


def cofiring(
    pooled: csr_matrix,
    of: Float32[np.ndarray, " n_latents"],
    latent: int,
    rows: Int64[np.ndarray, " firing"],
    values: Float32[np.ndarray, " firing"],
) -> Float32[np.ndarray, " n_latents"]:
    """Cosine of a latent's pooled codes over images, its `column`, with those of every latent, `of` being `norms`; 0 for silent ones.

    Where it fires on more than MOST images, products are estimated from as many of them, evenly chosen: a click stays quick.
    """
    sample = np.unique(np.linspace(0, max(len(rows) - 1, 0), min(len(rows), MOST)).astype(np.int64))
    products = pooled[rows[sample]].T @ values[sample] * (len(rows) / max(len(sample), 1))
    scale = of * of[latent]
    return np.divide(products, scale, out=np.zeros_like(of), where=scale > 0).astype(np.float32)


def neighbours(
    unit_atoms: Float32[np.ndarray, "n_latents d_model"],
    pooled: csr_matrix,
    of: Float32[np.ndarray, " n_latents"],
    latent: int,
    fires: tuple[Int64[np.ndarray, " firing"], Float32[np.ndarray, " firing"]],
    n: int = 8,
) -> pl.DataFrame:
    """The n other latents with the highest cosine of atoms, and the n with the highest cosine of pooled codes: by (atom or co-firing),
    latent, cosine. `unit_atoms`: of length 1. `fires`: the latent's `column`."""
    scores = {"atom": unit_atoms @ unit_atoms[latent], "co-firing": cofiring(pooled, of, latent, *fires)}
    tables = []
    for name, score in scores.items():
        score[latent] = -np.inf
        n_best = min(n, len(score) - 1)
        best = np.argsort(-score, kind="stable")[:n_best]
        tables.append(
            pl.DataFrame(
                {"by": [name] * n_best, "latent": best.astype(np.int64), "cosine": score[best].astype(np.float64)}
            )
        )
    return pl.concat(tables)


def histograms(codes: CodeStore, latent: int, bins: int = 24) -> list[tuple[str, str, pl.DataFrame]]:
    """(heading, what is counted, bins of equal width) of a latent's codes over tokens, and over the images on which it fires of their
    largest code and of the fraction of their tokens on which it fires."""
    _, largest = column(codes, latent)
    tokens, values = codes.latent(latent)
    start, stop = (codes.images["rows"].struct.field(name).to_numpy() for name in ("start", "stop"))
    fires = np.bincount(np.searchsorted(start, tokens, "right") - 1, minlength=len(start))
    fraction = (fires[fires > 0] / (stop - start)[fires > 0]).astype(np.float32)
    return [
        ("Images by their largest code", "images", histogram(largest, bins)),
        ("Tokens by their code", "tokens", histogram(values, bins)),
        ("Images by the fraction of their tokens on which it fires", "images", histogram(fraction, bins)),
    ]


def histogram(values: Float32[np.ndarray, " firing"], bins: int = 24) -> pl.DataFrame:
    """low, high and n (values inside) of bins of equal width; without rows where there are no values."""
    counts, edges = np.histogram(values, bins) if len(values) else (np.zeros(0, np.int64), np.zeros(1))
    return pl.DataFrame({"low": edges[:-1], "high": edges[1:], "n": counts.astype(np.int64)})
