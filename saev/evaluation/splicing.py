"""Splice fidelity of dictionaries: the sites they read, the images that were recorded, and the backbone."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from saev.dictionary import Dictionary
from saev.evaluation.measuring import Sums, intervals, paired
from saev.evaluation.settings import EvaluateSettings
from saev.images.source import ImageSource
from saev.saved import SavedDictionary, shared_passes
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection
from saev.vits.activation_site import ActivationSite, site_of
from saev.vits.backbone import Backbone
from saev.vits.image_batches import image_batches
from saev.vits.source import VitSource
from saev.vits.splice import Fidelity, Spliced, splice_fidelity

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Splicing:
    """The images and the backbone that were recorded, and a classifier's head."""

    images: ImageSource
    vit: VitSource
    head: Mapping[str, Tensor]
    settings: EvaluateSettings

    @classmethod
    def prepare(
        cls, images: ImageSource | None, vit: VitSource | None, settings: EvaluateSettings
    ) -> "Splicing | None":
        """None without images and backbone; ValueError where one of them is missing or cannot be read."""
        if images is None and vit is None:
            return None
        if images is None or vit is None:
            raise ValueError(
                "splicing needs both the images and the backbone that were recorded: give images= and vit=."
            )
        head = read_head(settings.head)
        vit.check()
        images.check()
        return cls(images, vit, head, settings)

    def sites(self, saved: Sequence[SavedDictionary], selections: Mapping[str, Selection]) -> dict[str, ActivationSite]:
        """The site of each dictionary in this backbone; ValueError where it was trained elsewhere, and for images that were not recorded.

        A dictionary in memory is taken to belong where the selected activations were recorded.
        """
        identity, shape = self.vit.identity(), self.vit.shape()
        result = {}
        for one in saved:
            selection, config = selections[one.name], one.config
            if one.dictionary is not None:
                recorded = {key: selection.store.manifest.meaning.get(key) for key in ("vit", "hook")}
                origin = {**recorded, "layer": selection.layer, "token_roles": selection.tokens}
                config = {**config, "provenance": origin}
            site = result[one.name] = site_of(one.name, config, identity, shape)
            if site.layer != selection.layer:
                raise ValueError(
                    f"layer={selection.layer}: {one.name} belongs into layer {site.layer}; leave layer out to splice it."
                )
        for names in shared_passes(selections):
            selection = selections[names[0]]
            recorded_images(selection.store, selection.images, self.images, self.settings.splice_images)
        return result

    def splice(
        self,
        members: Mapping[str, Dictionary],
        sites: Mapping[str, ActivationSite],
        selection: Selection,
        backbone: Backbone,
    ) -> dict[str, Fidelity]:
        """`splice_fidelity` of each dictionary over the chosen images."""
        chosen = recorded_images(selection.store, selection.images, self.images, self.settings.splice_images)
        mean = torch.from_numpy(selection.store.moments(selection.layer, selection.tokens).mean).float()
        skipped: list[str] = []
        workers = min(16, os.cpu_count() or 1)
        batches = image_batches(backbone, self.images, chosen, self.settings.splice_batch, workers, skipped)
        spliced = {name: Spliced(members[name], sites[name], mean) for name in members}
        log.info("putting %d dictionaries back into %s, on %d images", len(members), backbone.name, len(chosen))
        fidelity = splice_fidelity(backbone, spliced, batches, self.settings.references, self.head)
        if skipped:
            log.warning("%d images could not be read, the first: %s", len(skipped), skipped[0])
        return fidelity

    def rows(self, spliced: Mapping[str, Fidelity], reference: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Per dictionary its numbers, `splice_images`, their intervals, and the differences to the mean of the dictionaries `reference`."""
        sums = {name: recovered_sums(one) for name, one in spliced.items()}
        rows = {}
        for name, one in spliced.items():
            n_images = len(next(iter(one.errors.values()), ()))
            row = rows[name] = {**one.numbers, "splice_images": n_images}
            row |= intervals(row, sums[name], self.settings.bootstrap)
            if reference and {*reference} <= {*spliced}:
                others = [sums[other] for other in reference]
                row |= paired(sums[name], others, self.settings.bootstrap, self.settings.permutations)
        return rows


def recovered_sums(fidelity: Fidelity) -> Sums:
    """Per splice_recovered_<role> and image, what its sum over images is the ratio of: (reference error - error, reference error)."""
    pairs = {role: (lost.numpy(), fidelity.errors[role].numpy()) for role, lost in fidelity.reference_errors.items()}
    return {f"splice_recovered_{role}": (lost - error, lost) for role, (lost, error) in pairs.items() if lost.any()}


def recorded_images(
    store: ActivationStore, examples: Int64[np.ndarray, " images"], images: ImageSource, most: int | None
) -> Int64[np.ndarray, " chosen"]:
    """Indices, in `images`, of at most `most` of the recorded images (a seeded draw), ascending.

    ValueError where one of them is not among the files of the image set.
    """
    if most is not None and most < len(examples):
        examples = np.sort(np.random.default_rng(0).permutation(examples)[:most])
    return np.sort(np.array(images.indices(store.examples["key"].gather(examples).to_list(), store.name), np.int64))


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
