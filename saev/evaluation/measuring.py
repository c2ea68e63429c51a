"""One pass over recorded activations that measures several dictionaries at once.

TokenStream ──batch──▶ encode, decode, per dictionary ──▶ saev.metrics, summed up
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from saev.dictionary import Dictionary
from saev.metrics.correlation import CodeCorrelation
from saev.metrics.functional import coherence, mean_atom_norm
from saev.metrics.histograms import ValueHistogram, frequency_histogram
from saev.metrics.paired import difference, ratio_p
from saev.metrics.resampling import MIN_IMAGES, draws, ratio_interval
from saev.metrics.stateful import ValidationMetrics, vectors
from saev.progress import bar
from saev.shards.selected_tokens import Selection


@torch.inference_mode()
def measure(
    members: Mapping[str, Dictionary],
    selection: Selection,
    batch_size: int = 4096,
    device: str = "cpu",
    correlation_latents: int = 8192,
    progress: bool = False,
    bootstrap: int = 0,
    against: Sequence[str] = (),
    permutations: int = 0,
) -> dict[str, dict[str, Any]]:
    """Per dictionary, its numbers over the selected tokens: `ValidationMetrics`, `correlation` (mean absolute, of codes;
    left out with correlation_latents=0), `coherence`, `mean_max_cosine`, `mean_atom_norm`, and as lists of counts
    `frequency_histogram` and `value_histogram`. With `bootstrap` resamples of the images, 95 % intervals of nmse and l0 (None for
    fewer than 5 images), and the differences to the mean of the members `against` (`paired`).

    Memory: a batch of activations, one dictionary's codes of it, and 8 correlation_latents^2 bytes per dictionary.
    """
    dictionaries = list(members.values())
    stream = selection.stream(batch_size)
    shift = torch.from_numpy(selection.store.moments(selection.layer, selection.tokens).mean)
    metrics = ValidationMetrics(shift, [d.n_latents for d in dictionaries]).to(device)
    correlations = [
        CodeCorrelation(d.n_latents, correlation_latents).to(device) for d in dictionaries if correlation_latents
    ]
    values = [ValueHistogram().to(device) for _ in dictionaries]
    # per image: tokens, squared distance from the mean; for each dictionary squared error and active latents
    images = torch.zeros(
        2 + 2 * len(dictionaries), selection.store.manifest.n_examples, dtype=torch.float64, device=device
    )

    total = torch.zeros(len(shift), dtype=torch.float64, device=device)  # of the distances from the mean

    def outputs(x: torch.Tensor, image: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for i, dictionary in enumerate(dictionaries):
            codes = dictionary.encode(x)
            x_hat = dictionary.decode(codes)
            images[2 + 2 * i].index_add_(0, image, (x.double() - x_hat.double()).square().sum(1))
            images[3 + 2 * i].index_add_(0, image, (codes != 0).sum(1).double())
            values[i].update(codes)
            if correlations:
                correlations[i].update(codes)
            yield codes, x_hat

    with bar("Evaluating", stream.n_batches, visible=progress) as advance:
        for batch in stream.batches(0, stream.n_batches):
            x = torch.from_numpy(batch["acts"]).to(device).float()
            image = torch.from_numpy(batch["example"]).to(device).long()
            images[0].index_add_(0, image, torch.ones(len(x), dtype=torch.float64, device=device))
            distance = x.double() - shift.to(device).double()
            images[1].index_add_(0, image, distance.square().sum(1))
            total += distance.sum(0)
            metrics.update(x, outputs(x, image))
            advance(1)
    rows = {}
    sums = {}
    for i, (name, numbers) in enumerate(zip(members, metrics.compute(), strict=True)):
        atoms = dictionaries[i].atoms
        cosines = coherence(atoms)
        firings = vectors(metrics.activity[i])["firings"]  # type: ignore[arg-type]
        rows[name] = {
            **{key: value.item() for key, value in numbers.items()},
            **({"correlation": correlations[i].compute().item()} if correlations else {}),
            "coherence": cosines.max.item(),
            "mean_max_cosine": cosines.mean_max.item(),
            "mean_atom_norm": mean_atom_norm(atoms).item(),
            "frequency_histogram": frequency_histogram(firings, numbers["n_tokens"]).tolist(),
            "value_histogram": values[i].compute().tolist(),
        }
        tokens, variation, error, active = images[[0, 1, 2 + 2 * i, 3 + 2 * i]][:, images[0] > 0].cpu().numpy()
        variation *= (
            1 - (total.square().sum() / (tokens.sum() * variation.sum())).item()
        )  # about these tokens' mean, as nmse is
        sums[name] = {"nmse": (error, variation), "l0": (active, tokens)}
        if bootstrap:
            rows[name] |= intervals(rows[name], sums[name], bootstrap)
    if against and {*against} <= {*members}:
        for name in members:
            rows[name] |= paired(sums[name], [sums[one] for one in against], bootstrap, permutations)
    return rows


# Numbers that are ratios of sums over images: numerator and denominator of each image.
Sums = Mapping[str, tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, " images"]]]


def intervals(row: Mapping[str, Any], sums: Sums, bootstrap: int) -> dict[str, float | None]:
    """<number>_low and _high of each number of a row: 95 % over images, None for fewer than MIN_IMAGES; nothing without resamples."""
    if not bootstrap:
        return {}
    ends = {key: ratio_interval(*sums[key], row[key], bootstrap)._asdict() for key in sums}
    return {f"{key}_{end}": None if x != x else x for key, of in ends.items() for end, x in of.items()}


def paired(one: Sums, reference: Sequence[Sums], bootstrap: int, permutations: int) -> dict[str, float | None]:
    """Per number, a ratio of sums over images: diff_<number>, its difference to the mean of the reference's, diff_<number>_low and _high,
    95 % over images, and p_<number> of `ratio_p`; None for fewer than MIN_IMAGES images, and for the reference itself.
    """
    row: dict[str, float] = {}
    for key, (top, bottom) in one.items():
        others = np.mean([other[key][0] for other in reference], 0)
        itself = any(other is one for other in reference)
        few = len(top) < MIN_IMAGES or itself
        drawn = draws(len(top), 0 if few else bootstrap)
        of = difference(
            np.nan if itself else top.sum() / bottom.sum(), others.sum() / bottom.sum(),
            top @ drawn / (bottom @ drawn), others @ drawn / (bottom @ drawn),
        )  # fmt: skip
        p = np.nan if few else ratio_p((top, bottom), (others, bottom), permutations)
        row |= {f"diff_{key}": of.diff, f"diff_{key}_low": of.low, f"diff_{key}_high": of.high, f"p_{key}": p}
    return {key: None if value != value else float(value) for key, value in row.items()}
