"""What scores tokens: dictionaries, raw channels, and objects of the user's."""

from typing import Any, Protocol, runtime_checkable

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.dictionary import Scorer
from saev.saved import SavedDictionary

# of columns that a job may leave empty: all jobs' tables have the same types
TYPES = {
    **dict.fromkeys(("dictionary", "sha256", "train_dataset", "sae", "objective"), pl.String),
    **dict.fromkeys(("vit", "pool", "label_mode", "strata", "group"), pl.String),
    **dict.fromkeys(("d_sae", "k"), pl.Int64),
    **dict.fromkeys(("sparsity", "l0_target", "lr", "l0", "nmse"), pl.Float64),
}  # fmt: skip


@runtime_checkable
class TokenScorer(Protocol):
    """What ranks tokens: a `saev.Scorer` around a dictionary, or an object of the user's."""

    @property
    def n_prototypes(self) -> int:
        """The number of scores of a token."""
        ...

    def __call__(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_prototypes"]:
        """Scores of raw activations; larger means more like the prototype."""
        ...


class Activations:
    """Raw activations: a score per channel."""

    def __init__(self, d_model: int):
        self.n_prototypes = d_model

    def __call__(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_prototypes"]:
        return acts


class BothSigns:
    """A scorer's scores, and then their negatives."""

    def __init__(self, scorer: TokenScorer):
        self.scorer, self.n_prototypes = scorer, 2 * scorer.n_prototypes

    def __call__(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_prototypes"]:
        scores = self.scorer(acts)
        return torch.cat([scores, -scores], 1)


def on_device(scorer: TokenScorer, device: str) -> TokenScorer:
    """The scorer; a module on the device, in evaluation mode."""
    return scorer.to(device).eval() if isinstance(scorer, nn.Module) else scorer  # type: ignore[return-value]


def checked(
    scorer: TokenScorer, acts: Float[Tensor, "batch d_model"], name: str = "scorers"
) -> Float[Tensor, "batch n_prototypes"]:
    """The scores of a batch; ValueError where they have another shape than the scorer says, or are not finite."""
    scores, shape = scorer(acts), (len(acts), scorer.n_prototypes)
    if scores.shape != shape:
        raise ValueError(
            f"{name} returns scores of shape {tuple(scores.shape)} for {len(acts)} tokens: must be [batch, n_prototypes], "
            f"here {shape}."
        )
    if not torch.isfinite(scores).all():
        raise ValueError(f"{name} returns scores that are not finite: they cannot be ranked.")
    return scores


def scorer_of(one: SavedDictionary, device: str) -> TokenScorer:
    """A dictionary's codes as scores; of principal components with both signs, as their signs are arbitrary."""
    scorer = Scorer(one.load(device))
    return BothSigns(scorer) if kind_of(one) == "pca" else scorer


def kind_of(one: SavedDictionary) -> str:
    """sae, or the kind of a baseline; random vectors of the variant `untrained` are apart."""
    settings = one.config.get("hyperparameters") or {}
    if settings.get("variant") == "untrained":
        return "untrained"
    return str(
        settings.get("baseline")
        or ("sae" if "sae" in settings else one.config.get("kind", type(one.dictionary).__name__))
    )


def about(one: SavedDictionary) -> dict[str, Any]:
    """The columns of rows that say what a dictionary is and how it was trained."""
    settings, metrics = one.config.get("hyperparameters") or {}, one.config.get("metrics") or {}
    named = {key: settings.get(key) for key in ("sae", "objective", "sparsity", "k", "l0_target", "lr")}
    return {
        "dictionary": str(one.path or one.name),
        "sha256": (one.config.get("sha256") or {}).get("weights"),
        "train_dataset": one.provenance.get("dataset"),
        "d_sae": one.config["n_latents"],
        **named,
        "l0": metrics.get("l0"),
        "nmse": metrics.get("nmse"),
    }
