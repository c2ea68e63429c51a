"""How codes are computed and stored; no torch here, so that the command line's --help stays fast."""

import dataclasses
from typing import Literal

from saev.settings import Examples, bounded, check

VIEWS = ("token", "latent", "image")


@dataclasses.dataclass(frozen=True)
class EncodeSettings:
    """Settings of `saev.encode`.

    Args:
        tokens: patches, cls, special or all; None: those each dictionary was trained on.
        examples: all recorded images, or those that training held out.
        latent_topk: at most so many codes of a token, the largest by absolute value; "all": every one that is not 0;
            None: every one, and dictionaries whose codes are dense are refused.
        dtype: of the stored codes; float32 where codes exceed 65504.
        views: token (CSR shards by token), latent (their transpose), image (pooled over each image's tokens).
        batch_size: tokens.
        device: auto (cuda where there is one), cpu, cuda, cuda:1.
    """

    tokens: str | None = None
    examples: Examples = "all"
    latent_topk: int | str | None = None
    dtype: Literal["float16", "float32"] = "float16"
    views: tuple[str, ...] = VIEWS
    batch_size: int = bounded(4096, at_least=1)
    device: str = "auto"

    def __post_init__(self):
        check(self)
        if not self.views or not {*self.views} <= {*VIEWS}:
            raise ValueError(f"views={list(self.views)}: choose one or several of {', '.join(VIEWS)}.")
        k = self.latent_topk
        if not (k in (None, "all") or (type(k) is int and k >= 1)):
            raise ValueError(f"latent_topk={k}: must be a number of at least 1, e.g. latent_topk=64, or all.")

    @property
    def most(self) -> int | None:
        """The most codes of a token; None: no bound."""
        return self.latent_topk if isinstance(self.latent_topk, int) else None
