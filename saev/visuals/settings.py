"""What a page of latents shows; no torch here, so that the command line's --help stays fast."""

import dataclasses

from saev.settings import Examples, bounded, check, shown


@dataclasses.dataclass(frozen=True)
class Choice:
    """The rule by which latents are chosen.

    Args:
        n: how many latents, evenly spaced from rare to common.
        rarest, commonest: bounds of the firing frequency, as log10 of the fraction of tokens.
        images: fire on at least so many images, else there is nothing to compare.
        weakest: leave out this fraction of the remaining latents, those of the lowest mean value when firing.
    """

    n: int = bounded(6, at_least=1)
    rarest: float = -4.0
    commonest: float = -1.0
    images: int = bounded(4, at_least=1)
    weakest: float = bounded(0.5, at_least=0, below=1)

    def __post_init__(self):
        check(self, "choice.")
        if self.rarest > self.commonest:
            raise ValueError(f"choice.rarest={self.rarest}: must be at most choice.commonest={self.commonest}.")


@dataclasses.dataclass(frozen=True)
class ShowSettings:
    """Settings of `saev.show`.

    Args:
        examples: all recorded images, or those that training held out.
        most_images: at most so many of them, evenly spaced; None: all.
        n_images: images for each latent.
        latents: their numbers, in each of the dictionaries; None: by `choice`, or the best latents of probed classes.
        classes: names of probed classes; None: the 24 whose average precision has the highest lower bound.
        choice: the rule, where neither latents nor a probe are given.
        device: auto (cuda where there is one), cpu, cuda, cuda:1.
    """

    examples: Examples = "all"
    most_images: int | None = bounded(4096, at_least=1)
    n_images: int = bounded(8, at_least=1)
    latents: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None
    choice: Choice = Choice(n=12)
    device: str = "auto"

    def __post_init__(self):
        check(self)
        if self.latents is not None and not (self.latents and all(type(latent) is int for latent in self.latents)):
            raise ValueError(f"latents={shown(self.latents)}: give their numbers, e.g. latents=[12,965].")
