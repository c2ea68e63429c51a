"""How similar the latents of two dictionaries are: which of them have a partner, in which of three ways, and in nulls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from saev.evaluation.compared import CodeVectors, Compared, code_vectors, common_images
from saev.metrics.matching import CORRELATED, SAME, By, best_matches, matched_cosines, one_to_one
from saev.metrics.subspaces import subspace_agreement

SUBSPACES = (8, 32, 128)  # atoms of the largest energy whose span is compared
UNTRAINED = 2606_02061  # seed of random directions: another than SAEs start from, whose seeds are 0, 1, ...
Flags = dict[str, Bool[Tensor, " n_latents"]]  # by column: whether each latent has a partner


class Pair(NamedTuple):
    """Two dictionaries: the numbers of the pair, and for each dictionary the flags of its latents."""

    numbers: dict[str, Any]
    flags_a: Flags
    flags_b: Flags
    partners: tuple[np.ndarray, np.ndarray, np.ndarray] | None  # latents of a, of b, and cosines of one-to-one pairs


def compare_pair(
    a: Compared, b: Compared, vectors: Callable[[Compared, bytes], CodeVectors] = code_vectors, seed: int = 0
) -> Pair:
    """Partners by cosine of atoms where `shares_space`, and by correlation and Jaccard where codes of two common images are known.

    Nulls: the dimensions of b's atoms permuted; its images permuted, the same way for correlation and Jaccard.

    Args:
        vectors: `code_vectors`, or the same with a cache.
    """
    rng = np.random.default_rng(seed)
    pair = Pair({}, {}, {}, None)
    if a.shares_space(b):
        x, y = a.atoms, b.atoms
        order = rng.permutation(y.shape[1])
        matches, partner = with_partners(pair, "cosine", x, y, SAME)
        with_partners(pair, "cosine", x, y[:, order], SAME, suffix="_null")
        means = {
            "mean_max_a": matches.similarity_a,
            "mean_max_b": matches.similarity_b,
            "matched": matched_cosines(x, y),
        }
        pair.numbers.update({name: value.double().mean().item() for name, value in means.items()})
        if a.start is not None and b.start is not None:
            with_partners(pair, "start", a.start, b.start, SAME)
        chosen = (partner >= 0).nonzero()[:, 0]
        cosines = torch.cosine_similarity(x[chosen], y[partner[chosen]], dim=1)
        pair = pair._replace(partners=tuple(z.cpu().numpy() for z in (chosen, partner[chosen], cosines)))
        if a.codes is not None and b.codes is not None:
            pair.numbers.update(subspaces(a, b))
    rows_a, rows_b = common_images(a.selection, b.selection)
    pair.numbers["n_images"] = len(rows_a)
    if len(rows_a) > 1:
        compare_codes(pair, vectors(a, rows_a.tobytes()), vectors(b, rows_b.tobytes()), rng)
    return pair


def compare_codes(pair: Pair, a: CodeVectors, b: CodeVectors, rng: np.random.Generator) -> None:
    """Add the partners by correlation and by Jaccard, and those with the images of b permuted."""
    order = rng.permutation(b.top.shape[1])
    for name, x, y in (("correlation", a.standardised, b.standardised), ("jaccard", a.top, b.top)):
        by: By = "jaccard" if name == "jaccard" else "cosine"
        with_partners(pair, name, x, y, CORRELATED, by)
        with_partners(pair, name, x, y[:, order], CORRELATED, by, "_null")


def with_partners(
    pair: Pair, name: str, x: Tensor, y: Tensor, threshold: float, by: By = "cosine", suffix: str = ""
) -> Any:
    """Add which rows of x and of y have a partner, and the fractions; the matches and the one-to-one partner of each row of x.

    Fractions: <name>_a, <name>_b of the latents of each with any partner (of a null, <name>_null of those of both), and
    <name>_one_to_one of the smaller dictionary's.
    """
    matches = best_matches(x, y, by)
    partner = one_to_one(x, y, matches, threshold, by)
    of_y = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    of_y[partner[partner >= 0]] = True
    best = matches.similarity_a >= threshold, matches.similarity_b >= threshold
    for flags, many, single in ((pair.flags_a, best[0], partner >= 0), (pair.flags_b, best[1], of_y)):
        flags |= {f"{name}{suffix}": many.cpu(), f"{name}_one_to_one{suffix}": single.cpu()}
    means = {f"{name}_a": best[0], f"{name}_b": best[1]} if not suffix else {f"{name}{suffix}": torch.cat(best)}
    pair.numbers.update({key: one.double().mean().item() for key, one in means.items()})
    pair.numbers[f"{name}_one_to_one{suffix}"] = int(of_y.sum()) / min(len(x), len(y))
    return matches, partner


def subspaces(a: Compared, b: Compared) -> dict[str, float]:
    """subspace_<m> and subspace_<m>_null for the m atoms of the largest energy of each, for each m of SUBSPACES below d_model."""
    numbers = {}
    order_a, order_b = a.strongest(), b.strongest()
    for m in SUBSPACES:
        if m < a.atoms.shape[1] and m <= min(len(order_a), len(order_b)):
            agreement, null = subspace_agreement(a.atoms[order_a[:m]], b.atoms[order_b[:m]])
            numbers |= {f"subspace_{m}": agreement, f"subspace_{m}_null": null}
    return numbers


def own_start(one: Compared) -> Tensor | None:
    """The cosine of each atom with itself at the start of training; None where the start was not saved."""
    return None if one.start is None else torch.cosine_similarity(one.atoms, one.start, dim=1).double().cpu()


def untrained_fraction(one: Compared, seed: int = UNTRAINED) -> float:
    """The fraction of atoms that have a partner among as many unit vectors of random direction."""
    drawn = torch.randn(one.atoms.shape, generator=torch.Generator().manual_seed(seed)).to(one.atoms)
    return (best_matches(one.atoms, drawn).similarity_a >= SAME).double().mean().item()
