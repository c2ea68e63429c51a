"""Splice fidelity of saved dictionaries: their places, the pictures that were recorded, and the backbone."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from saev.dictionary import Dictionary
from saev.images.source import ImageSource
from saev.saved import SavedDictionary
from saev.shards import ActivationStore
from saev.vits.backbone import Backbone
from saev.vits.picture_batches import image_batches
from saev.vits.place import Place, place_of
from saev.vits.source import VitSource
from saev.vits.splice import Spliced, splice_fidelity

log = logging.getLogger(__name__)


def places(found: Sequence[SavedDictionary], vit: VitSource) -> dict[str, Place]:
    """Where each dictionary belongs in this backbone; ValueError where one was trained elsewhere."""
    identity, shape = vit.identity(), vit.shape()
    return {one.name: place_of(one.name, one.config, identity, shape) for one in found}


def pictures_of(
    store: ActivationStore, examples: Int64[np.ndarray, " images"], images: ImageSource, most: int | None
) -> Int64[np.ndarray, " chosen"]:
    """The numbers, in `images`, of at most `most` of the recorded images (a seeded draw, in ascending order).

    ValueError where one of them is not among the files of the image set.
    """
    if most is not None and most < len(examples):
        examples = np.sort(np.random.default_rng(0).permutation(examples)[:most])
    number = {path: i for i, path in enumerate(images.paths())}
    keys = store.examples["key"].to_list()
    missing = [keys[i] for i in examples if keys[i] not in number]
    if missing:
        raise ValueError(
            f"images={images.name} does not have {missing[0]} and {len(missing) - 1} more of the images of {store.name}: "
            "give the image set that was recorded, as for `saev record`."
        )
    return np.sort(np.array([number[keys[i]] for i in examples], np.int64))


def read_head(path: str | None) -> dict[str, Tensor]:
    """A classifier over the pooled features: safetensors of `weight` [classes, width] and `bias` or `logit_scale`."""
    if path is None:
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        head = load_file(Path(path).expanduser())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"head={path} cannot be read ({error}): give a safetensors file.") from error
    if not {"weight"} <= {*head} <= {"weight", "bias", "logit_scale"} or head["weight"].ndim != 2:
        shapes = {name: tuple(value.shape) for name, value in head.items()}
        raise ValueError(
            f"head={path} holds {shapes}: give weight [classes, width], and bias [classes] or logit_scale."
        )
    return head


def splice(
    members: Mapping[str, Dictionary],
    at: Mapping[str, Place],
    means: Mapping[str, Tensor],
    images: ImageSource,
    chosen: Int64[np.ndarray, " chosen"],
    backbone: Backbone,
    head: Mapping[str, Tensor],
    settings: Any,
) -> dict[str, dict[str, Any]]:
    """Per dictionary the numbers of `splice_fidelity` over the chosen pictures, and `splice_images`, how many there were."""
    skipped: list[str] = []
    workers = min(16, os.cpu_count() or 1)
    batches = image_batches(backbone, images, chosen, settings.splice_batch, workers, skipped)
    spliced = {name: Spliced(members[name], at[name], means[name].float()) for name in members}
    log.info("putting %d dictionaries back into %s, on %d images", len(members), backbone.name, len(chosen))
    rows = splice_fidelity(backbone, spliced, batches, tuple(settings.references), head)
    if skipped:
        log.warning("%d images could not be read, the first: %s", len(skipped), skipped[0])
    return {name: {**row, "splice_images": len(chosen) - len(skipped)} for name, row in rows.items()}
