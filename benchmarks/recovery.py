"""How well a dictionary recovered known features; definitions of SynthSAEBench (arXiv:2602.14687, section 3)."""

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize


def cosines(
    atoms: Float[Tensor, "d_sae d_model"], features: Float[Tensor, "n_features d_model"]
) -> Float[Tensor, "d_sae n_features"]:
    """|cos| of each atom with each feature."""
    return (normalize(atoms, dim=1) @ normalize(features, dim=1).T).abs()


def mean_correlation(cosine: Float[Tensor, "d_sae n_features"]) -> float:
    """MCC: the mean |cos| of matched pairs, in the one-to-one matching for which it is largest (Hungarian method).

    Every atom or every feature is matched, whichever are fewer.

    >>> round(mean_correlation(torch.tensor([[1.0, 0.9, 0.0], [0.8, 0.1, 0.0]])), 4)  # 0.9 and 0.8, not 1 and 0.1
    0.85
    """
    rows, columns = linear_sum_assignment(cosine.cpu().numpy(), maximize=True)
    return cosine[rows, columns].double().mean().item()


def best_match(cosine: Float[Tensor, "d_sae n_features"]) -> Int[Tensor, " d_sae"]:
    """The feature most like each atom; several atoms may have the same."""
    return cosine.argmax(1)


def uniqueness(match: Int[Tensor, " d_sae"]) -> float:
    """The number of different best-matching features, divided by the number of latents.

    >>> uniqueness(torch.tensor([3, 1, 3, 0]))
    0.75
    """
    return len(match.unique()) / len(match)


def detection_update(
    codes: Float[Tensor, "batch d_sae"], f: Float[Tensor, "batch n_features"], match: Int[Tensor, " d_sae"]
) -> Int[Tensor, "3 d_sae"]:
    """Per latent the numbers of samples on which it and its feature, it alone, and its feature alone fire."""
    fires, there = codes > 0, f[:, match] > 0
    both = (fires & there).sum(0)
    return torch.stack([both, fires.sum(0) - both, there.sum(0) - both])


def detection_compute(counts: Int[Tensor, "3 d_sae"]) -> tuple[float, float, float]:
    """(F1, precision, recall): means over latents as detectors of their best-matching feature; 0 where undefined.

    >>> f1, precision, recall = detection_compute(torch.tensor([[2, 0], [2, 0], [0, 1]]))
    >>> round(f1, 4), precision, recall
    (0.3333, 0.25, 0.5)
    """
    both, alone, missed = counts.double()
    precision = both / (both + alone).clamp_min(1)
    recall = both / (both + missed).clamp_min(1)
    f1 = 2 * both / (2 * both + alone + missed).clamp_min(1)
    return f1.mean().item(), precision.mean().item(), recall.mean().item()
