"""One pass over recorded activations that measures several dictionaries at once.

TokenStream ──batch──▶ encode, decode, per dictionary ──▶ saev.metrics, summed up
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from rich.console import Console
from rich.progress import track

from saev.dictionary import Dictionary
from saev.metrics.correlation import CodeCorrelation
from saev.metrics.functional import coherence, mean_atom_norm
from saev.metrics.histograms import ValueHistogram, frequency_histogram
from saev.metrics.stateful import ValidationMetrics, vectors
from saev.shards import ActivationStore, open_stream
from saev.shards.split import held_out_split


def choose_images(
    store: ActivationStore,
    layer: int,
    tokens: str,
    ignore_labels: Sequence[int],
    examples: str,
    held_out: Mapping[str, Any],
) -> Int64[np.ndarray, " images"]:
    """The images to evaluate on: those held out in training, or all that could be read."""
    if examples == "all":
        return np.flatnonzero(store.tokens_per_image(layer))
    fraction, most, by_shard = (held_out[key] for key in ("fraction", "tokens", "by_shard"))
    return held_out_split(store, layer, tokens, tuple(ignore_labels), fraction, most, by_shard)[1]


@torch.inference_mode()
def measure(
    members: Mapping[str, Dictionary],
    store: ActivationStore,
    layer: int,
    images: Int64[np.ndarray, " images"],
    tokens: str = "patches",
    ignore_labels: Sequence[int] = (),
    batch_size: int = 4096,
    device: str = "cpu",
    correlation_latents: int = 8192,
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """Per dictionary, its numbers over these images' tokens: `ValidationMetrics`, `correlation` (mean absolute, of codes;
    left out with correlation_latents=0), `coherence`, `mean_max_cosine`, `mean_atom_norm`, and as lists of counts
    `frequency_histogram` and `value_histogram`.

    Memory: a batch of activations, one dictionary's codes of it, and 8 correlation_latents^2 bytes per dictionary.
    """
    dictionaries = list(members.values())
    stream = open_stream(store, layer, batch_size, images, tokens, ignore_labels)
    shift = torch.from_numpy(store.moments(layer, tokens).mean)
    metrics = ValidationMetrics(shift, [d.n_latents for d in dictionaries]).to(device)
    correlations = [
        CodeCorrelation(d.n_latents, correlation_latents).to(device) for d in dictionaries if correlation_latents
    ]
    values = [ValueHistogram().to(device) for _ in dictionaries]

    def outputs(x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for i, dictionary in enumerate(dictionaries):
            codes = dictionary.encode(x)
            values[i].update(codes)
            if correlations:
                correlations[i].update(codes)
            yield codes, dictionary.decode(codes)

    console = Console(stderr=True, quiet=not progress)
    batches = stream.batches(0, stream.n_batches)
    for batch in track(batches, "Evaluating", stream.n_batches, console=console, disable=not progress):
        x = torch.from_numpy(batch["acts"]).to(device).float()
        metrics.update(x, outputs(x))
    found = {}
    for i, (name, numbers) in enumerate(zip(members, metrics.compute(), strict=True)):
        atoms = dictionaries[i].atoms
        alike = coherence(atoms)
        firings = vectors(metrics.activity[i])["firings"]  # type: ignore[arg-type]
        found[name] = {
            **{key: value.item() for key, value in numbers.items()},
            **({"correlation": correlations[i].compute().item()} if correlations else {}),
            "coherence": alike.max.item(),
            "mean_max_cosine": alike.mean_max.item(),
            "mean_atom_norm": mean_atom_norm(atoms).item(),
            "frequency_histogram": frequency_histogram(firings, numbers["n_tokens"]).tolist(),
            "value_histogram": values[i].compute().tolist(),
        }
    return found
