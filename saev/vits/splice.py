"""Splice fidelity: replace activations by their reconstructions and compare the model's outputs.

    images ──▶ blocks ..l ──▶ x ──encode, decode──▶ x_hat ──▶ blocks l.. ──▶ features', compared with the clean run's
                              └──▶ dataset mean (or 0) ──────▶ ...           features'': the reference, everything lost

Tokens of other roles than the dictionary's are not changed. Dictionaries are spliced one at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from saev.dictionary import Dictionary
from saev.metrics.fidelity import FeatureFidelity, PredictionFidelity, linear_logits, recovered
from saev.settings import listed
from saev.vits.activation_site import ActivationSite
from saev.vits.backbone import Backbone
from saev.vits.hooks import Point
from saev.vits.outputs import POOLED, Change, outputs
from saev.vits.shape import VitShape

REFERENCES = ("mean", "zero")
TOKENS_AT_A_TIME = 8192  # through a dictionary: its codes are dense here


@dataclass(frozen=True)
class Spliced:
    """A dictionary (eval mode), its site, and the mean of the activations there (over the tokens it was trained on)."""

    dictionary: Dictionary
    site: ActivationSite
    mean: Float[Tensor, " d_model"]


class Fidelity(NamedTuple):
    """Numbers of a dictionary over all images; and by role the squared errors of each image, spliced and with the first reference."""

    numbers: dict[str, float]
    errors: dict[str, Float64[Tensor, " images"]]
    reference_errors: dict[str, Float64[Tensor, " images"]]


@dataclass
class Outcome:
    """The effect of a change on the outputs: on features by role, on pooled features, and on predictions of a head."""

    features: dict[str, FeatureFidelity] = field(default_factory=dict)
    predictions: PredictionFidelity | None = None
    by_image: dict[str, list[Tensor]] = field(default_factory=dict)

    def update(
        self, clean: Mapping[str, Tensor], changed: Mapping[str, Tensor], head: Mapping[str, Tensor], n_images: int
    ) -> None:
        """Add a batch: outputs [n, width] by role, the n rows in the order of the images."""
        for role, value in clean.items():
            self.features.setdefault(role, FeatureFidelity().to(value.device)).update(value, changed[role])
            error = (changed[role].double() - value.double()).square().reshape(n_images, -1).sum(1)
            self.by_image.setdefault(role, []).append(error.cpu())
        if head:
            self.predictions = self.predictions or PredictionFidelity().to(clean[POOLED].device)
            self.predictions.update(linear_logits(clean[POOLED], head), linear_logits(changed[POOLED], head))

    def numbers(self) -> dict[str, float]:
        """`error_<role>`, `cosine_<role>`, and with a head `agreement` and `kl`."""
        features = {f"{key}_{role}": float(v) for role, m in self.features.items() for key, v in m.compute().items()}
        return features | ({k: float(v) for k, v in self.predictions.compute().items()} if self.predictions else {})

    def errors(self) -> dict[str, Float64[Tensor, " images"]]:
        """By role, the squared error of each image."""
        return {role: torch.cat(parts) for role, parts in self.by_image.items()}


@torch.inference_mode()
def splice_fidelity(
    backbone: Backbone,
    spliced: Mapping[str, Spliced],
    batches: Iterable[Tensor],
    references: Sequence[str] = ("mean",),
    head: Mapping[str, Tensor] | None = None,
) -> dict[str, Fidelity]:
    """Per dictionary its errors by image, and over all images, with `<role>` cls, registers, patches and pooled (the model's pooled
    features):

    splice_error_<role>: sum ||y' - y||^2 / sum ||y||^2 of the final normed features, y being the clean run's.
    splice_cosine_<role>: mean over tokens of cos(y', y).
    <reference>_error_<role>, <reference>_cosine_<role>: the same where the tokens are replaced by their mean or by 0.
    splice_recovered_<role>: 1 - splice_error / mean_error (of the first reference): 1 nothing lost, 0 everything lost.
    With a `head` (see `linear_logits`, on the pooled features): splice_agreement, the fraction of images whose top-1 class is
    the same, and splice_kl, mean KL(clean || spliced) in nats; and both for each reference.

    Raises ValueError for sites that cannot be spliced. A batch is [images, 3, height, width].
    """
    for unknown in {*references} - {*REFERENCES}:
        raise ValueError(f"references={unknown}: choose {listed(REFERENCES)}.")
    device = next(backbone.parameters()).device
    changes = _changes(backbone, spliced, references)
    outcomes = {key: Outcome() for key in changes}
    for images in batches:
        images = images.to(device)
        clean = outputs(backbone, images)
        for key, (point, change) in changes.items():
            outcomes[key].update(clean, outputs(backbone, images, point, change), head or {}, len(images))
    numbers = {key: outcome.numbers() for key, outcome in outcomes.items()}
    rows: dict[str, Fidelity] = {}
    for name, dictionary in spliced.items():
        row = {f"splice_{key}": value for key, value in numbers[name, "splice"].items()}
        for reference in references:
            row |= {f"{reference}_{key}": value for key, value in numbers[_reference(dictionary), reference].items()}
        for key, value in numbers[name, "splice"].items():
            if key.startswith("error_") and references:
                lost = torch.tensor(row[f"{references[0]}_{key}"], dtype=torch.float64)
                fraction = recovered(torch.tensor(value, dtype=torch.float64), lost)
                row[f"splice_recovered_{key.removeprefix('error_')}"] = float(fraction)
        lost = outcomes[_reference(dictionary), references[0]].errors() if references else {}
        rows[name] = Fidelity(row, outcomes[name, "splice"].errors(), lost)
    return rows


def _reference(spliced: Spliced) -> tuple[ActivationSite, bytes]:
    """Key of the references: the same for dictionaries of one site and one mean."""
    return spliced.site, spliced.mean.cpu().numpy().tobytes()


def _changes(
    backbone: Backbone, spliced: Mapping[str, Spliced], references: Sequence[str]
) -> dict[tuple[Any, str], tuple[Point, Change]]:
    """The point and the change of every forward pass besides the clean one."""
    device = next(backbone.parameters()).device
    changes: dict[tuple[Any, str], tuple[Point, Change]] = {}
    for name, each in spliced.items():
        assert not (isinstance(each.dictionary, nn.Module) and each.dictionary.training), "dictionaries in eval mode"
        point = each.site.point(backbone)
        mean = each.mean.to(device)
        changes[name, "splice"] = point, _on_tokens(backbone.shape, each.site, reconstruction(each.dictionary))
        for reference in references:
            value = mean if reference == "mean" else torch.zeros_like(mean)
            constant = lambda x, value=value: value.to(x.dtype).expand_as(x)  # noqa: E731
            changes[_reference(each), reference] = point, _on_tokens(backbone.shape, each.site, constant)
    return changes


def reconstruction(dictionary: Dictionary) -> Change:
    """x [tokens, d_model] -> decode(encode(x)), TOKENS_AT_A_TIME tokens at a time."""
    return lambda x: torch.cat([dictionary.decode(dictionary.encode(part)) for part in x.split(TOKENS_AT_A_TIME)])


def _on_tokens(shape: VitShape, site: ActivationSite, change: Change) -> Change:
    """`change` applied to the site's tokens of [batch, tokens, d_model]; other tokens stay unchanged."""

    def on_all(value: Float[Tensor, "batch tokens d_model"]) -> Float[Tensor, "batch tokens d_model"]:
        if value.ndim != 3:  # a model that pools first applies the norm to the pooled features too
            return value
        out = value.clone()
        for part in site.slices(shape, value.shape[1]):
            selected = value[:, part]
            out[:, part] = change(selected.flatten(0, 1)).to(value.dtype).view_as(selected)
        return out

    return on_all
