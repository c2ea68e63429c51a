"""Which latents to show: neither dead nor dense, not the weakest, spread over how often they fire. No chance in it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from saev.visuals.top_images import Survey


@dataclass(frozen=True)
class Choice:
    """The rule.

    Args:
        n: how many latents.
        rarest, commonest: bounds of the firing frequency, as log10 of the fraction of tokens.
        images: fire on at least so many images, else there is nothing to compare.
        weakest: leave out this fraction of the remaining latents, those of the lowest mean value when firing.
    """

    n: int = 6
    rarest: float = -4.0
    commonest: float = -1.0
    images: int = 4
    weakest: float = 0.5

    def __post_init__(self):
        if min(self.n, self.images) < 1 or not 0 <= self.weakest < 1 or not self.rarest <= self.commonest:
            raise ValueError(
                f"choice.n={self.n}, choice.images={self.images}, choice.weakest={self.weakest}, choice.rarest={self.rarest}, "
                f"choice.commonest={self.commonest}: give n and images of at least 1, weakest from 0 to below 1, and rarest not "
                "above commonest."
            )


def choose_latents(survey: Survey, rule: Choice = Choice()) -> Int64[np.ndarray, " some"]:
    """Up to `rule.n` latents, rarest first: evenly spaced in the order of firing frequency among those the rule admits."""
    admitted = np.flatnonzero(between(survey.frequency, rule) & (survey.images.numpy() >= rule.images))
    if not len(admitted):
        return admitted
    values = survey.mean_value[admitted]
    strong = admitted[values >= np.quantile(values, rule.weakest)]
    ordered = strong[np.argsort(survey.frequency[strong], kind="stable")]
    n = min(rule.n, len(ordered))
    return ordered[(2 * np.arange(n) + 1) * len(ordered) // (2 * n)]  # the middles of n equal runs


def between(frequency: Float[np.ndarray, " n_latents"], rule: Choice) -> np.ndarray:
    """Which latents fire neither too rarely nor too often for the rule."""
    return (frequency >= 10**rule.rarest) & (frequency <= 10**rule.commonest)
