"""Splice fidelity: put reconstructed activations back into the model and see what is left of its output.

    images ──▶ blocks ..l ──▶ x ──encode, decode──▶ x_hat ──▶ blocks l.. ──▶ features', compared with the clean run's
                              └──▶ dataset mean (or 0) ──────▶ ...           features'': the reference, all lost

Tokens outside the dictionary's selection stay as they are. Every dictionary is spliced alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.dictionary import Dictionary
from saev.metrics.fidelity import FeatureFidelity, PredictionFidelity, linear_logits, recovered
from saev.vits.backbone import Backbone
from saev.vits.hooks import Point
from saev.vits.outputs import POOLED, Change, outputs
from saev.vits.place import Place
from saev.vits.shape import VitShape

REFERENCES = ("mean", "zero")
TOKENS_AT_A_TIME = 8192  # through a dictionary: its codes are dense here


@dataclass(frozen=True)
class Spliced:
    """A dictionary (eval mode), its place, and the mean of the activations there (over the tokens it was trained on)."""

    dictionary: Dictionary
    place: Place
    mean: Float[Tensor, " d_model"]


@dataclass
class Outcome:
    """What a change did to the outputs: features by token role and as the model pools them, predictions with a head."""

    features: dict[str, FeatureFidelity] = field(default_factory=dict)
    predictions: PredictionFidelity | None = None

    def update(self, clean: Mapping[str, Tensor], changed: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> None:
        """Add a batch: outputs [n, width] by role."""
        for role, value in clean.items():
            self.features.setdefault(role, FeatureFidelity().to(value.device)).update(value, changed[role])
        if head:
            self.predictions = self.predictions or PredictionFidelity().to(clean[POOLED].device)
            self.predictions.update(linear_logits(clean[POOLED], head), linear_logits(changed[POOLED], head))

    def numbers(self) -> dict[str, float]:
        """`error_<role>`, `cosine_<role>`, and with a head `agreement` and `kl`."""
        found = {f"{key}_{role}": float(v) for role, m in self.features.items() for key, v in m.compute().items()}
        return found | ({k: float(v) for k, v in self.predictions.compute().items()} if self.predictions else {})


@torch.inference_mode()
def splice_fidelity(
    backbone: Backbone,
    spliced: Mapping[str, Spliced],
    batches: Iterable[Tensor],
    references: Sequence[str] = ("mean",),
    head: Mapping[str, Tensor] | None = None,
) -> dict[str, dict[str, float]]:
    """Per dictionary, over all images, with `<role>` cls, registers, patches and pooled (the model's own summary):

    splice_error_<role>: sum ||y' - y||^2 / sum ||y||^2 of the final normed features, y being the clean run's.
    splice_cosine_<role>: mean over tokens of cos(y', y).
    <reference>_error_<role>, <reference>_cosine_<role>: the same where the tokens are replaced by their mean or by 0.
    splice_recovered_<role>: 1 - splice_error / mean_error (of the first reference): 1 nothing lost, 0 all of it.
    With a `head` (see `linear_logits`, on the pooled features): splice_agreement, the fraction of images whose top-1 class is
    the same, and splice_kl, mean KL(clean || spliced) in nats; and both for each reference.

    Raises ValueError for places that cannot be spliced. A batch is [images, 3, height, width]; those of one batch share a size.
    """
    for unknown in {*references} - {*REFERENCES}:
        raise ValueError(f"references={unknown}: choose among {', '.join(REFERENCES)}.")
    device = next(backbone.parameters()).device
    changes = _changes(backbone, spliced, references)
    outcomes = {key: Outcome() for key in changes}
    for images in batches:
        images = images.to(device)
        clean = outputs(backbone, images)
        for key, (point, change) in changes.items():
            outcomes[key].update(clean, outputs(backbone, images, point, change), head or {})
    found = {key: outcome.numbers() for key, outcome in outcomes.items()}
    rows: dict[str, dict[str, float]] = {}
    for name, one in spliced.items():
        row = {f"splice_{key}": value for key, value in found[name, "splice"].items()}
        for reference in references:
            row |= {f"{reference}_{key}": value for key, value in found[_reference(one), reference].items()}
        for key, value in found[name, "splice"].items():
            if key.startswith("error_") and references:
                lost = torch.tensor(row[f"{references[0]}_{key}"], dtype=torch.float64)
                share = recovered(torch.tensor(value, dtype=torch.float64), lost)
                row[f"splice_recovered_{key.removeprefix('error_')}"] = float(share)
        rows[name] = row
    return rows


def _reference(one: Spliced) -> tuple[Place, bytes]:
    """Dictionaries of one place and one mean share their references."""
    return one.place, one.mean.cpu().numpy().tobytes()


def _changes(
    backbone: Backbone, spliced: Mapping[str, Spliced], references: Sequence[str]
) -> dict[tuple[Any, str], tuple[Point, Change]]:
    """Every forward pass to be made beside the clean one: what is replaced, and by what."""
    device = next(backbone.parameters()).device
    found: dict[tuple[Any, str], tuple[Point, Change]] = {}
    for name, one in spliced.items():
        assert not (isinstance(one.dictionary, nn.Module) and one.dictionary.training), "dictionaries in eval mode"
        point = one.place.point(backbone)
        mean = one.mean.to(device)
        found[name, "splice"] = point, _on_tokens(backbone.shape, one.place, reconstruction(one.dictionary))
        for reference in references:
            value = mean if reference == "mean" else torch.zeros_like(mean)
            found[_reference(one), reference] = point, _on_tokens(backbone.shape, one.place, _constant(value))
    return found


def _constant(value: Float[Tensor, " d_model"]) -> Change:
    return lambda x: value.to(x.dtype).expand_as(x)


def reconstruction(dictionary: Dictionary) -> Change:
    """x [tokens, d_model] -> decode(encode(x)), some thousand tokens at a time."""

    def change(x: Tensor) -> Tensor:
        return torch.cat([dictionary.decode(dictionary.encode(part)) for part in x.split(TOKENS_AT_A_TIME)])

    return change


def _on_tokens(shape: VitShape, place: Place, change: Change) -> Change:
    """Apply `change` to the chosen tokens of [batch, tokens, d_model]; the others are passed on untouched."""

    def on_all(value: Float[Tensor, "batch tokens d_model"]) -> Float[Tensor, "batch tokens d_model"]:
        if value.ndim != 3:  # the norm is applied to the pooled features too where the model pools first
            return value
        out = value.clone()
        for span in place.spans(shape, value.shape[1]):
            chosen = value[:, span]
            out[:, span] = change(chosen.flatten(0, 1)).to(value.dtype).view_as(chosen)
        return out

    return on_all
