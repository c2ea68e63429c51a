"""What the probes of pooled codes are compared with: the activations themselves, and random directions as many as the latents."""

from collections.abc import Mapping, Sequence

import torch

from saev.baselines.baseline import as_unit_rows
from saev.baselines.random_vectors import RandomVectorsDictionary
from saev.nn.normalise import Normaliser
from saev.probing.passes import Encoder, Source, l0_of_first_batch
from saev.probing.splits import Split

RAW, UNTRAINED = "raw activations", "untrained directions"


def references(
    sources: Sequence[Source], n_latents: Mapping[str, int], train: Split, batch_size: int, seed: int, device: str
) -> Encoder:
    """RAW: the normalised activations as codes. UNTRAINED: random unit directions, as many as the largest dictionary has latents, and
    of each token as many of the largest projections as it has active ones."""
    widest = max(n_latents, key=lambda name: n_latents[name])
    l0 = {name: mean for source in sources for name, mean in l0_of_first_batch(source, train).items()}
    normaliser = Normaliser.fit(train.store.moments(train.layer, train.tokens))
    d_model, generator = train.store.d_model, torch.Generator().manual_seed(seed)
    drawn = as_unit_rows(torch.randn(n_latents[widest], d_model, generator=generator))
    untrained = RandomVectorsDictionary(normaliser, drawn, min(n_latents[widest], round(l0[widest])))
    raw = RandomVectorsDictionary(normaliser, torch.eye(d_model))
    return Encoder({RAW: raw.to(device), UNTRAINED: untrained.to(device)}, batch_size, None)
