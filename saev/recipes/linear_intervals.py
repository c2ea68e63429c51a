"""Intervals over images of the numbers of a chosen linear probe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from datamodules import LabelledDataModule
from saev.metrics.resampling import draws
from saev.metrics.score_bins import softmax_log_odds
from saev.probing.scores import resampled
from saev.shards import open_stream
from saev.shards.split import groups_of
from saev.training.linear.module import ProbeModule


@torch.no_grad()
def image_intervals(
    data: LabelledDataModule,
    module: ProbeModule,
    i: int,
    row: Mapping[str, Any],
    classes: Sequence[int] | None,
    group: str | None,
    n: int,
    seed: int,
) -> dict[str, float | None]:
    """95 % intervals of the row's `map` (over `classes`), `accuracy` and `miou` from `n` resamples of the validation images or
    groups.

    Each process reads all validation tokens. Memory: 2 bytes per (token, class).
    """
    assert data.labels is not None
    probe: Any = module.probes[i]
    cluster = np.full(data.val_store.manifest.n_examples, -1)
    cluster[data.val_examples] = groups_of(data.val_store, data.val_examples, group)
    drawn = draws(int(cluster.max()) + 1, n, seed)
    parts: list[tuple[np.ndarray, ...]] = []
    stream = open_stream(data.val_store, data.layer, data.batch_size, data.val_examples, data.tokens)
    for batch in stream.batches(0, stream.n_batches):
        labels = data.labels[1].of(batch["example"], batch["token"])
        kept = labels >= 0 if data.labels[1].exclusive else np.ones(len(labels), bool)
        acts = torch.from_numpy(batch["acts"][kept].astype(np.float32)).to(module.device)
        logits = probe(module.inputs[probe.spec.input].features(acts))
        scores = softmax_log_odds(logits) if data.labels[1].exclusive else logits
        parts.append((scores.half().cpu().numpy(), labels[kept], cluster[batch["example"][kept]]))
    scores, labels, image = (np.concatenate(column) for column in zip(*parts, strict=True))
    sample = resampled(scores, labels, image, drawn)
    sample = sample if classes is None else sample._replace(ap=sample.ap[list(classes)])
    return sample.intervals({name: row[name] for name in ("map", "accuracy", "miou")}, len(drawn))
