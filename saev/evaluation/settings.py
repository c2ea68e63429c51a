"""How dictionaries are evaluated; no torch here, so that the command line's --help stays fast."""

import dataclasses
from typing import Literal

from saev.settings import Examples, bounded, check


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """Settings of `saev.evaluate`.

    Args:
        tokens: patches, cls, special or all; None: those each dictionary was trained on.
        examples: images that training held out, or all.
        batch_size: tokens.
        correlation_latents: at most so many latents' correlations, 8 bytes for each pair; 0: none.
        bootstrap: resamples of the images, for 95 % intervals of nmse and l0; 0: none.
        against: the dictionary, or the kind of baseline, that all others are compared with on the same images; None: none.
        permutations: exchanges of the two methods, image by image, for p; 0: none.
        at_l0: interpolate the NMSE of each series of dictionaries, equal but for k, sparsity or l0_target, at this L0; None: not.
        gap: also the NMSE on as many training images, where the split of a dictionary's training is known.
        stability: also compare all pairs of dictionaries, latent by latent.
        stability_among: compare all pairs of dictionaries, or those that differ in their seed alone.
        stability_images: at most so many images, whose codes are correlated and whose overlap is taken; 0: atoms alone.
        stability_pooled: save the latents of several seeds that have a partner in at least this fraction of the others as a dictionary.
        device: auto (cuda where there is one), cpu, cuda, cuda:1.
        splice_images: of the evaluated images, drawn at random; None: all.
        splice_batch: images.
        references: what all tokens are replaced by for comparison.
        head: safetensors of weight [classes, width] and bias, on the pooled features; with logit_scale: zero-shot.
    """

    tokens: str | None = None
    examples: Examples = "held_out"
    batch_size: int = bounded(4096, at_least=1)
    correlation_latents: int = bounded(8192, at_least=0, hint="0 leaves the correlation out")
    bootstrap: int = bounded(1000, at_least=0, hint="0 leaves the intervals out")
    against: str | None = None
    permutations: int = bounded(1000, at_least=0, hint="0 leaves p out")
    at_l0: float | None = bounded(None, above=0)
    gap: bool = True
    stability: bool = False
    stability_among: Literal["all", "seeds"] = "all"
    stability_images: int = bounded(1000, at_least=0, hint="0 compares atoms alone")
    stability_pooled: float | None = bounded(None, at_least=0, at_most=1)
    device: str = "auto"
    splice_images: int | None = bounded(200, at_least=1)
    splice_batch: int = bounded(32, at_least=1)
    references: tuple[Literal["mean", "zero"], ...] = ("mean",)
    head: str | None = None

    def __post_init__(self):
        check(self)
        if self.stability_pooled is not None and not self.stability:
            raise ValueError(f"stability_pooled={self.stability_pooled} has no effect without stability=true.")
